"""`dqlab new-plugin`: a plugin's skeleton."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_parser
from dqlab.files import expanded

EXAMPLES = """
dqlab new-plugin mylab
"""


def add_new_plugin(commands: Any) -> None:
    """`dqlab new-plugin`."""
    text = "Write a package of your own with a component of each of five kinds, which passes `dqlab check`."
    parser = add_parser(commands, "new-plugin", text, EXAMPLES)
    parser.set_defaults(command=_new_plugin)
    parser.add_argument("name", help="of the package, e.g. mylab or my-lab")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="folder to be made; ./NAME by default")


def _new_plugin(args: argparse.Namespace) -> int:
    from dqlab.tools.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))
    return 0
