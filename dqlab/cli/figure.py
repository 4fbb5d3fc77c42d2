"""`dqlab figure`: figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_group, add_set, add_subcommand
from dqlab.files import expanded

EXAMPLES = """
dqlab figure bandit
"""
BANDIT_EXAMPLES = """
dqlab figure bandit
dqlab figure bandit --out runs/figure --steps 500 --samples 2000
"""


def add_figure(commands: Any) -> None:
    """`dqlab figure`."""
    text = "Train what a figure of the paper shows, and draw it."
    group = add_group(commands, "figure", text, EXAMPLES, "FIGURE")
    about = "The 2D bandit: four policies by cloning, four by Q-learning."
    bandit = add_subcommand(group, "bandit", _figure_bandit, about, BANDIT_EXAMPLES)
    bandit.add_argument("--out", type=expanded, default=Path("runs/bandit"), help="folder; runs/bandit by default")
    bandit.add_argument("--steps", type=int, help="updates of every run (Training.steps)")
    bandit.add_argument("--samples", type=int, default=1000, help="actions drawn from each policy; 1000 by default")
    add_set(bandit)


def _figure_bandit(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools.bandit import draw_bandit

    load_plugins(args.plugin)
    steps = [f"Training.steps={args.steps}"] if args.steps is not None else []
    draw_bandit(args.out, [*args.set, *steps], args.samples)
    return 0
