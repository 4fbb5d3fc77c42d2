"""`dqlab score`: scores of returns."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from dqlab.cli.options import add_command

EXAMPLES = """
dqlab score hopper-medium-v2 -20.27 3234.3
dqlab score walker2d returns.csv --column return
dqlab score --list
"""


def add_score(commands: Any) -> None:
    """`dqlab score`."""
    text = "D4RL-normalised scores of raw returns."
    parser = add_command(commands, "score", _score, text, EXAMPLES)
    parser.accept_numbers()
    wanted = [
        parser.add_argument("task", metavar="TASK", help="e.g. hopper-medium-v2; or a robot, e.g. walker2d"),
        parser.add_argument(
            "returns",
            nargs="+",
            metavar="RETURN",
            help="a number; a file (.npy, .json, .csv, or a number a line); or - for standard input",
        ),
    ]
    parser.add_argument("--column", default="", metavar="NAME", help="of a CSV file; 'return' by default")
    about = "show every task's reference returns and episode limit"
    parser.add_argument("--list", action=_WithoutArguments, arguments=wanted, help=about)
    parser.add_argument("--json", action="store_true", help="as JSON")


class _WithoutArguments(argparse.Action):
    """A flag with which no positional arguments are wanted."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, arguments: Sequence[argparse.Action], help: str
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self.arguments = arguments

    def __call__(self, parser: Any, namespace: argparse.Namespace, *_: Any) -> None:
        """It was given."""
        setattr(namespace, self.dest, True)
        for argument in self.arguments:
            argument.required = False


def _score(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools import score

    load_plugins(args.plugin)
    if args.list:
        print(json.dumps(score.all_references(), indent=1)) if args.json else score.print_references()
        return 0
    scored = score.score_returns(args.task, args.returns, args.column)
    print(json.dumps(scored, indent=1)) if args.json else score.print_scored(scored)
    return 0
