"""`dqlab describe`: one component, its parameters and its contract."""

from __future__ import annotations

import argparse
from typing import Any

from dqlab.cli.options import add_command

EXAMPLES = """
dqlab describe noise_schedule vp
"""


def add_describe(commands: Any) -> None:
    """`dqlab describe`."""
    parser = add_command(
        commands,
        "describe",
        _describe,
        "Describe one component: parameters, gin example, the contract of its kind.",
        EXAMPLES,
    )
    parser.add_argument("kind", help="e.g. noise_schedule")
    parser.add_argument("name", nargs="?", default="", help="e.g. vp")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _describe(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools import describe

    load_plugins(args.plugin)
    print((describe.describe_json if args.json else describe.describe)(args.kind, args.name))
    return 0
