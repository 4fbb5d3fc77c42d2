"""`dqlab collect`: collect datasets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command, add_gin, load_configuration
from dqlab.files import expanded

EXAMPLES = """
dqlab collect --gin mine.gin --out collected --format d4rl minari
"""


def add_collect(commands: Any) -> None:
    """`dqlab collect`."""
    parser = add_command(
        commands,
        "collect",
        _collect,
        "Make a dataset in any continuous Gymnasium environment: policies by level (PPO), random, runs, files, mixed.",
        EXAMPLES,
    )
    add_gin(parser)
    parser.add_argument(
        "--out",
        type=expanded,
        default=Path("collected"),
        help="folder; a second call continues or reuses what is there",
    )
    parser.add_argument(
        "--format", action="extend", nargs="+", help="what is written: d4rl, minari, or both (Collection.formats)"
    )


def _collect(args: argparse.Namespace) -> int:
    from dqlab.tools.collect.recipe import Collection

    load_configuration(args, [f"Collection.formats={tuple(args.format)!r}"] if args.format else [])
    for place in Collection().run(args.out, typed=args.set):
        print(place)
    return 0
