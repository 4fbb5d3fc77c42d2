"""`dqlab doctor`, `score`: what works on this machine; what returns are worth."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any

from dqlab.cli.options import command


def add(commands: Any) -> None:
    """Add these commands."""
    _add_doctor(commands)
    _add_score(commands)


def _add_doctor(commands: Any) -> None:
    text = "Say what works on this machine, and the fix for what does not; exit code 1 if dqlab train could not work."
    parser = commands.add_parser("doctor", help=text, description=text)
    parser.set_defaults(command=_doctor)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_score(commands: Any) -> None:
    text = "D4RL-normalised scores of raw returns."
    parser = command(commands, "score", _score, text)
    parser._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)", re.IGNORECASE)  # -1e3 is no option either
    parser.add_argument("task", metavar="TASK", help="e.g. hopper-medium-v2; or a robot, e.g. walker2d")
    parser.add_argument(
        "returns",
        nargs="+",
        metavar="RETURN",
        help="a number; a file (.npy, .json, .csv, or a number a line); or - for standard input",
    )
    parser.add_argument("--column", default="", metavar="NAME", help="of a CSV file; 'return' by default")
    parser.add_argument("--list", action=_Alone, help="show every task's reference returns and episode limit")
    parser.add_argument("--json", action="store_true", help="as JSON")


class _Alone(argparse.Action):
    """A flag with which no positional arguments are wanted."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)

    def __call__(self, parser: Any, namespace: argparse.Namespace, *_: Any) -> None:
        """It was given."""
        setattr(namespace, self.dest, True)
        for action in parser._actions:
            action.required = action.required and bool(action.option_strings)


def _doctor(args: argparse.Namespace) -> int:
    from dqlab.doctor.examination import examine
    from dqlab.doctor.screen import as_json, show

    report = examine()
    if args.json:
        print(as_json(report))
    else:
        show(report)
    return 0 if report.can_train else 1


def _score(args: argparse.Namespace) -> int:
    from dqlab.plugins import load_plugins
    from dqlab.scoring import scores

    load_plugins(args.plugin)
    if args.list:
        print(json.dumps(scores.all_references(), indent=1)) if args.json else scores.print_references()
        return 0
    scored = scores.score(args.task, args.returns, args.column)
    print(json.dumps(scored.as_dict(), indent=1)) if args.json else scores.print_scored(scored)
    return 0
