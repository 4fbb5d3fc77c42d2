"""`dqlab data list`, `download`, `verify`, `info`, `convert`, `import`: datasets."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_group, add_subcommand
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
    group = add_group(commands, "data", text, EXAMPLES)
    _add_list(group)
    _add_download(group)
    _add_verify(group)
    _add_info(group)
    _add_convert(group)
    _add_import(group)


LIST_EXAMPLES = """
dqlab data list
dqlab data list --json
"""


def _add_list(group: Any) -> None:
    parser = add_subcommand(
        group, "list", _list, "List the tasks with a dataset, and the datasets on this machine.", LIST_EXAMPLES
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


DOWNLOAD_EXAMPLES = """
dqlab data download walker2d-medium-v2 hopper-medium-v2
dqlab data download walker2d-medium-v2 --from d4rl_download:https://mirror.example/d4rl
"""


def _add_download(group: Any) -> None:
    parser = add_subcommand(group, "download", _download, "Fetch tasks' datasets into D4RL's cache.", DOWNLOAD_EXAMPLES)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="as `dqlab data list` shows them")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    parser.add_argument(
        "--from",
        nargs="+",
        metavar="SOURCE",
        dest="sources",
        default=["d4rl_download"],
        help="as in load_dataset.sources, e.g. d4rl_download:URL of a mirror; D4RL's server by default",
    )


VERIFY_EXAMPLES = """
dqlab data verify walker2d-medium-v2
dqlab data verify mine.hdf5 --task walker2d-medium-v2
"""


def _add_verify(group: Any) -> None:
    parser = add_subcommand(
        group, "verify", _verify, "Read datasets from end to end and tell what is wrong with them.", VERIFY_EXAMPLES
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help=DATASET)
    _add_task(parser)


INFO_EXAMPLES = """
dqlab data info walker2d-medium-v2
dqlab data info mine.npz --png mine.png
"""


def _add_info(group: Any) -> None:
    parser = add_subcommand(
        group, "info", _info, "Describe a dataset: rows, episodes, returns, actions, where it is from.", INFO_EXAMPLES
    )
    parser.add_argument("dataset", metavar="DATASET", help=DATASET)
    _add_task(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    text = "draw histograms of returns and lengths; into runs/data/NAME.png if no file is named"
    parser.add_argument("--png", nargs="?", type=expanded, const=Path(), metavar="FILE", help=text)


CONVERT_EXAMPLES = """
dqlab data convert mine.npz mine.hdf5
dqlab data convert minari:mujoco/walker2d/medium-v0 walker2d.hdf5
"""


def _add_convert(group: Any) -> None:
    parser = add_subcommand(group, "convert", _convert, "Write a dataset in another format.", CONVERT_EXAMPLES)
    parser.add_argument("source", metavar="FROM", help=DATASET)
    parser.add_argument("target", metavar="TO", help="a path with a format's suffix (.hdf5, .npz, .pkl), or minari:ID")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    _add_task(parser)


IMPORT_EXAMPLES = """
dqlab data import downloads/walker2d_medium-v2.hdf5 walker2d-medium-v2
"""


def _add_import(group: Any) -> None:
    parser = add_subcommand(
        group, "import", _import, "Put your copy of a task's dataset into D4RL's cache, if it fits.", IMPORT_EXAMPLES
    )
    parser.add_argument("source", metavar="FILE", help="a path, or minari:ID")
    parser.add_argument("task", metavar="TASK", help="whose it is")
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
    from dqlab.data.locate import conversion_target, locate_dataset, reading_status

    _ready(args)
    with reading_status(args.source):
        lines = convert_dataset(
            locate_dataset(args.source, args.task), conversion_target(args.target, args.task), args.force
        )
    for line in lines:
        print(line)
    return 0


def _import(args: argparse.Namespace) -> int:
    from dqlab.data.convert import import_dataset
    from dqlab.data.locate import reading_status

    _ready(args)
    with reading_status(args.source):
        lines = import_dataset(args.source, args.task, args.force)
    for line in lines:
        print(line)
    return 0
