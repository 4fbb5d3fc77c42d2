"""`dqlab data list`, `download`, `verify`, `info`, `convert`, `import`: datasets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command, add_parser
from dqlab.files import expanded

DATASET = "a task's name, a path, or minari:ID"

EXAMPLES = """
dqlab data list
dqlab data info walker2d-medium-v2
dqlab data convert mine.npz mine.hdf5
"""


def add_data(commands: Any) -> None:
    """`dqlab data`."""
    text = "List, fetch, check, describe and convert datasets."
    doors = add_parser(commands, "data", text, EXAMPLES).add_subparsers(required=True, metavar="COMMAND")
    _add_list(doors)
    _add_download(doors)
    _add_verify(doors)
    _add_info(doors)
    _add_convert(doors)
    _add_import(doors)


def _add_list(doors: Any) -> None:
    parser = add_command(doors, "list", _list, "List the tasks with a dataset, and the datasets on this machine.")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_download(doors: Any) -> None:
    parser = add_command(doors, "download", _download, "Fetch tasks' datasets into D4RL's cache.")
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    parser.add_argument(
        "--from",
        nargs="+",
        metavar="SOURCE",
        dest="sources",
        default=["d4rl_download"],
        help="as in load_dataset.sources, e.g. d4rl_download:URL of a mirror; D4RL's server by default",
    )


def _add_verify(doors: Any) -> None:
    parser = add_command(doors, "verify", _verify, "Read datasets from end to end and tell what is wrong with them.")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help=DATASET)
    _add_task(parser)


def _add_info(doors: Any) -> None:
    parser = add_command(
        doors, "info", _info, "Describe a dataset: rows, episodes, returns, actions, where it is from."
    )
    parser.add_argument("dataset", metavar="DATASET", help=DATASET)
    _add_task(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    text = "draw histograms of returns and lengths; into runs/data/NAME.png if no file is named"
    parser.add_argument("--png", nargs="?", type=expanded, const=Path(), metavar="FILE", help=text)


def _add_convert(doors: Any) -> None:
    parser = add_command(doors, "convert", _convert, "Write a dataset in another format.")
    parser.add_argument("source", metavar="FROM", help=DATASET)
    parser.add_argument("target", metavar="TO", help="a path with a format's suffix (.hdf5, .npz, .pkl), or minari:ID")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    _add_task(parser)


def _add_import(doors: Any) -> None:
    parser = add_command(doors, "import", _import, "Put your copy of a task's dataset into D4RL's cache, if it fits.")
    parser.add_argument("source", metavar="FILE", help="a path, or minari:ID")
    parser.add_argument("task", metavar="TASK")
    parser.add_argument("--force", action="store_true", help="replace what is there")


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", metavar="TASK", help="whose data it is, where its name does not say so")


def _ready(args: argparse.Namespace) -> None:
    from dqlab.config.plugins import load_plugins

    load_plugins(args.plugin)


def _list(args: argparse.Namespace) -> int:
    from dqlab.data import locate
    from dqlab.printing import Console

    _ready(args)
    if args.json:
        print(json.dumps(locate.listings_as_dicts(), indent=1))
    else:
        locate.print_datasets(Console())
    return 0


def _download(args: argparse.Namespace) -> int:
    from dqlab.data.convert import fetch_datasets
    from dqlab.printing import Console
    from dqlab.tracking.display import download_progress

    _ready(args)
    failures = []
    with download_progress(Console(stderr=True, quiet=not sys.stderr.isatty())) as progress:
        for done in fetch_datasets(args.tasks, args.sources, args.force, progress):
            if done.failed:
                failures.append(done)
            else:
                print(f"{done.task}: {done.text}", flush=True)
    for done in failures:
        print(f"dqlab: error: {done.task}: {done.text}", file=sys.stderr)
    return 2 if failures else 0


def _verify(args: argparse.Namespace) -> int:
    from dqlab.data.verify import report_findings

    _ready(args)
    damaged = False
    for name in args.datasets:
        damaged |= report_findings(name, args.task)
    return 2 if damaged else 0


def _info(args: argparse.Namespace) -> int:
    from dqlab.data.describe import print_info

    _ready(args)
    print_info(args.dataset, args.task, args.json, args.png)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from dqlab.data.convert import convert_dataset
    from dqlab.data.describe import reading_progress
    from dqlab.data.locate import conversion_target, locate_dataset

    _ready(args)
    with reading_progress(args.source):
        lines = convert_dataset(
            locate_dataset(args.source, args.task), conversion_target(args.target, args.task), args.force
        )
    for line in lines:
        print(line)
    return 0


def _import(args: argparse.Namespace) -> int:
    from dqlab.data.convert import import_dataset
    from dqlab.data.describe import reading_progress

    _ready(args)
    with reading_progress(args.source) as tell:
        lines = import_dataset(args.source, args.task, args.force, tell)
    for line in lines:
        print(line)
    return 0
