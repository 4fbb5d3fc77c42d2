"""Datasets: `dqlab data` and its commands; `dqlab collect`, `new-task` and `score`, which make and rate them."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.parser import Parser, add_command, add_gin, add_group, add_parser, bindings_of, load_configuration
from dqlab.errors import ConfigError, DqlabError, message_of
from dqlab.files import expanded

DATASET = "a task's name, a path, or minari:ID"
EXAMPLES = """
dqlab data list
dqlab data info walker2d-medium-v2
dqlab data convert mine.npz mine.hdf5
"""
DOWNLOAD_EXAMPLES = """
dqlab data download walker2d-medium-v2 hopper-medium-v2
dqlab data download walker2d-medium-v2 --from d4rl_download:https://mirror.example/d4rl
"""
VERIFY_EXAMPLES = """
dqlab data verify walker2d-medium-v2
dqlab data verify mine.hdf5 --task walker2d-medium-v2
"""
INFO_EXAMPLES = """
dqlab data info walker2d-medium-v2
dqlab data info mine.npz --json
"""
CONVERT_EXAMPLES = """
dqlab data convert mine.npz mine.hdf5
dqlab data convert minari:mujoco/walker2d/medium-v0 walker2d.hdf5
"""


def add_data(commands: Any) -> None:
    """`dqlab data` and its commands."""
    group = add_group(commands, "data", "List, fetch, check, describe and convert datasets.", EXAMPLES)
    text = "List the tasks with a dataset, and the datasets on this machine."
    parser = add_command(group, "list", _list, text, "dqlab data list\ndqlab data list --json", help=text)
    parser.add_argument("--json", action="store_true", help="as JSON")

    text = "Fetch tasks' datasets into D4RL's cache, Minari's store or OGBench's folder."
    parser = add_command(group, "download", _download, text, DOWNLOAD_EXAMPLES, help=text)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="as `dqlab data list` shows them")
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    text = "as in load_dataset.sources, e.g. d4rl_download:URL of a mirror; the task's own by default"
    parser.add_argument("--from", nargs="+", metavar="SOURCE", dest="sources", default=(), help=text)

    text = "Read datasets from end to end and tell what is wrong with them."
    parser = add_command(group, "verify", _verify, text, VERIFY_EXAMPLES, help=text)
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help=DATASET)
    _add_task(parser)

    text = "Describe a dataset: rows, episodes, returns, actions, where it is from."
    parser = add_command(group, "info", _info, text, INFO_EXAMPLES, help=text)
    parser.add_argument("dataset", metavar="DATASET", help=DATASET)
    _add_task(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")

    text = "Write a dataset in another format."
    parser = add_command(group, "convert", _convert, text, CONVERT_EXAMPLES, help=text)
    parser.add_argument("source", metavar="FROM", help=DATASET)
    parser.add_argument("target", metavar="TO", help="a path with a format's suffix: .hdf5 or .npz")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    _add_task(parser)


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", metavar="TASK", help="whose data it is, where its name does not say so")


def _list(args: argparse.Namespace) -> None:
    from dqlab.data import locate
    from dqlab.printing import Console

    if args.json:
        print(json.dumps(locate.list_datasets(), indent=1))
    else:
        locate.print_datasets(Console())


def _download(args: argparse.Namespace) -> int:
    from dqlab.data.locate import fetch_dataset, task_of
    from dqlab.printing import Console
    from dqlab.tracking.display import download_progress

    failures = []
    with download_progress(Console(stderr=True, quiet=not sys.stderr.isatty())) as progress:
        for task in [task_of(name) for name in args.tasks]:
            try:
                print(f"{task.name}: {fetch_dataset(task, args.sources, args.force, progress)}", flush=True)
            except DqlabError as error:
                failures.append(f"{task.name}: {message_of(error)}")
    for said in failures:
        print(f"dqlab: error: {said}", file=sys.stderr)
    return 2 if failures else 0


def _verify(args: argparse.Namespace) -> int:
    from dqlab.data.describe import report_findings

    damaged = [report_findings(name, args.task) for name in args.datasets]
    return 2 if any(damaged) else 0


def _info(args: argparse.Namespace) -> None:
    from dqlab.data.describe import print_info

    print_info(args.dataset, args.task, args.json)


def _convert(args: argparse.Namespace) -> None:
    from dqlab.data.locate import conversion_target, convert_dataset, locate_dataset, reading_status

    with reading_status(args.source):
        source, target = locate_dataset(args.source, args.task), conversion_target(args.target, args.task)
        lines = convert_dataset(source, target, args.force)
    print(*lines, sep="\n")


def add_collect(commands: Any) -> None:
    """`dqlab collect`."""
    text = (
        "Make a dataset in any continuous Gymnasium environment: policies by level (PPO), random, runs, files, mixed."
    )
    example = "dqlab collect --gin mine.gin --out collected --format d4rl npz"
    parser = add_parser(commands, "collect", _collect, text, example)
    add_gin(parser)
    text = "folder; a second call continues or reuses what is there"
    parser.add_argument("--out", type=expanded, default=Path("collected"), help=text)
    text = "what is written: d4rl, npz, or both (Collection.formats)"
    parser.add_argument("--format", action="extend", nargs="+", help=text)


def _collect(args: argparse.Namespace) -> None:
    from dqlab.tools.collect.recipe import Collection

    load_configuration(args, bindings_of({"Collection.formats": args.format}))
    for place in Collection().run(args.out, typed=args.set):
        print(place)


def add_new_task(commands: Any) -> None:
    """`dqlab new-task`."""
    text = "Write the gin file that trains on data of yours in an environment of yours, once the two are seen to fit."
    parser = add_command(commands, "new-task", _new_task, text, "dqlab new-task mine.npz --env-id my_envs:Mine-v0")
    parser.add_argument("data", metavar="DATA", help="a path, or minari:ID")
    text = "importing MODULE registers ID; or ID alone"
    parser.add_argument("--env-id", required=True, metavar="MODULE:ID", help=text)
    text = "its arguments, e.g. \"{'gravity': 9.8}\""
    parser.add_argument("--env-kwargs", default="{}", metavar="DICT", help=text)
    parser.add_argument("--out", type=expanded, metavar="FILE", help="the gin file; ./DATA.gin by default")
    text = "unit, env or as_is (load_dataset.action_bounds)"
    parser.add_argument("--action-bounds", default="", metavar="RULE", help=text)
    text = "steps; the environment's by default"
    parser.add_argument("--episode-limit", type=int, default=0, metavar="N", help=text)
    text = "of random actions, for reference; 20"
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help=text)
    parser.add_argument("--force", action="store_true", help="replace the file")


def _new_task(args: argparse.Namespace) -> None:
    from dqlab.data.locate import reading_status
    from dqlab.tools.new_task import new_task

    given = {name: getattr(args, name) for name in ("out", "episode_limit", "episodes", "force")}
    given |= {"rule": args.action_bounds, "env_kwargs": _dict(args.env_kwargs)}
    with reading_status(args.data):
        lines = new_task(args.data, args.env_id, **given)
    print(*lines, sep="\n")


def _dict(text: str) -> dict[str, Any]:
    """A dictionary as Python writes it."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"--env-kwargs must be a dictionary, such as \"{{'gravity': 9.8}}\", not {text!r}.")
    return found


SCORE_EXAMPLES = """
dqlab score hopper-medium-v2 -20.27 3234.3
dqlab score walker2d returns.csv --column return
"""


def add_score(commands: Any) -> None:
    """`dqlab score`."""
    parser: Parser = add_command(commands, "score", _score, "D4RL-normalised scores of raw returns.", SCORE_EXAMPLES)
    parser.accept_numbers()
    text = "a number; a file (.npy, .json, .csv, or a number a line); or - for standard input"
    parser.add_argument("task", metavar="TASK", help="e.g. hopper-medium-v2; or a robot, e.g. walker2d")
    parser.add_argument("returns", nargs="+", metavar="RETURN", help=text)
    parser.add_argument("--column", default="", metavar="NAME", help="of a CSV file; 'return' by default")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _score(args: argparse.Namespace) -> None:
    from dqlab.tools.score import print_scored, score_returns

    found = score_returns(args.task, args.returns, args.column)
    print(json.dumps(found, indent=1)) if args.json else print_scored(found)
