"""`dqlab fidelity`: physics and scores of both stacks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command
from dqlab.files import expanded

EXAMPLES = """
dqlab fidelity --robot hopper
dqlab fidelity --episodes 6 --out docs/fidelity.md
"""


def add_fidelity(commands: Any) -> None:
    """`dqlab fidelity`."""
    text = "Step today's environments and D4RL's own (`make legacy`) side by side; write a Markdown page on it."
    parser = add_command(commands, "fidelity", _fidelity, text, EXAMPLES)
    parser.add_argument("--out", type=expanded, default=Path("fidelity.md"), help="the page; fidelity.md by default")
    parser.add_argument("--robot", nargs="+", default=[], metavar="NAME", help="these of D4RL's environments; all")
    parser.add_argument("--episodes", type=int, default=10, help="roll-outs and episodes of each figure; 10 by default")


def _fidelity(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools.fidelity.page import write_fidelity_page

    load_plugins(args.plugin)
    write_fidelity_page(args.out, args.robot, args.episodes, print)
    print(args.out)
    return 0
