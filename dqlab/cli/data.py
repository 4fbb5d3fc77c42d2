"""Datasets (`data`, `collect`, `new-task`, `score`), components (`list`, `describe`, `check`, `new-plugin`), doctor."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dqlab.cli import parser
from dqlab.cli.parser import GIN, JSON, PLUGIN, SET, Command, command, option, setting, switch
from dqlab.errors import ConfigError, DqlabError, message_of, pip_install
from dqlab.files import expanded

DATASET = "a task's name, a path, or minari:ID"
RETURNS = "a raw return; a file of a number a line; or - for standard input"
FROM = "as in load_dataset.sources, e.g. d4rl_download:URL of a mirror; the task's own by default"
TASK = option("--task", "whose data it is, where its name does not say so; or your task's gin file", metavar="TASK")


def _task_named(name: str | None) -> str | None:
    """A task's name; where a gin file is named, that of the task which it makes."""
    if not name or not name.endswith(".gin"):
        return name
    from dqlab.config.gin_files import load_gin
    from dqlab.runs.experiment import Experiment

    load_gin([name])
    return Experiment().resolved_task.name


@command("list", "dqlab data list --json", JSON, PLUGIN)
def _list(args: argparse.Namespace) -> None:
    """List the tasks with a dataset, and the datasets on this machine."""
    from dqlab.data import locate
    from dqlab.printing import Console

    if args.json:
        print(json.dumps(locate.list_datasets(), indent=1))
    else:
        locate.print_datasets(Console())


@command(
    "download",
    "dqlab data download walker2d-medium-v2 --from d4rl_download:https://mirror.example/d4rl",
    option("tasks", "as `dqlab list task` shows them", nargs="+", metavar="TASK"),
    switch("--force", "fetch again what is there"),
    option("--from", FROM, nargs="+", metavar="SOURCE", dest="sources", default=()),
    PLUGIN,
)
def _download(args: argparse.Namespace) -> int:
    """Fetch tasks' datasets into D4RL's cache, Minari's store or OGBench's folder."""
    from dqlab.data.locate import fetch_dataset
    from dqlab.envs import tasks
    from dqlab.printing import Console
    from dqlab.tracking.display import download_progress

    failures = []
    with download_progress(Console(stderr=True, quiet=not sys.stderr.isatty())) as progress:
        for task in [tasks.get(name) for name in args.tasks]:
            try:
                print(f"{task.name}: {fetch_dataset(task, args.sources, args.force, progress)}", flush=True)
            except DqlabError as error:
                failures.append(f"{task.name}: {message_of(error)}")
    for said in failures:
        print(f"dqlab: error: {said}", file=sys.stderr)
    return 2 if failures else 0


@command("verify", "dqlab data verify a.hdf5", option("datasets", DATASET, nargs="+", metavar="DATASET"), TASK, PLUGIN)
def _verify(args: argparse.Namespace) -> int:
    """Read datasets from end to end and tell what is wrong with them."""
    from dqlab.data.locate import report_findings

    task = _task_named(args.task)
    damaged = [report_findings(name, task) for name in args.datasets]
    return 2 if any(damaged) else 0


@command("info", "dqlab data info mine.npz --json", option("dataset", DATASET, metavar="DATASET"), TASK, JSON, PLUGIN)
def _info(args: argparse.Namespace) -> None:
    """Describe a dataset: rows, episodes, returns, actions, where it is from."""
    from dqlab.data.locate import print_info

    print_info(args.dataset, _task_named(args.task), args.json)


@command(
    "convert",
    "dqlab data convert minari:mujoco/walker2d/medium-v0 walker2d.hdf5",
    option("source", DATASET, metavar="FROM"),
    option("target", "a path with a format's suffix: .hdf5 or .npz", metavar="TO"),
    switch("--force", "replace what is there"),
    TASK,
    PLUGIN,
)
def _convert(args: argparse.Namespace) -> None:
    """Write a dataset in another format."""
    from dqlab.data.locate import convert_dataset, locate_dataset, reading_status, resolve_dataset

    with reading_status(args.source):
        task = _task_named(args.task)
        source, target = locate_dataset(args.source, task), resolve_dataset(args.target, task)
        lines = convert_dataset(source, target, args.force)
    print(*lines, sep="\n")


@command(
    "collect",
    "dqlab collect --gin mine.gin --out collected --format d4rl npz",
    GIN,
    SET,
    PLUGIN,
    option("--out", "folder; a second call continues what is there", type=expanded, default=Path("collected")),
    setting(
        "--format", "what is written: d4rl, npz, ogbench, or several", "Collection.formats", action="extend", nargs="+"
    ),
)
def collect(args: argparse.Namespace) -> None:
    """Make a dataset in any continuous Gymnasium environment: policies by level (PPO), random, runs, files, mixed."""
    from dqlab.tools.collect.recipe import Collection

    if not args.gin:
        raise ConfigError("Name a gin file, for example --gin gin/collect/random.gin (dqlab collect --help).")
    parser.load_configuration(args, parser.bindings_of(args))
    for place in Collection().run(args.out, typed=args.set):
        print(place)


@command(
    "new-task",
    "dqlab new-task mine.npz --env-id my_envs:Mine-v0",
    option("data", "a path, or minari:ID", metavar="DATA"),
    option("--env-id", "importing MODULE registers ID; or ID alone", required=True, metavar="MODULE:ID"),
    option("--env-kwargs", "its arguments, e.g. \"{'gravity': 9.8}\"", default="{}", metavar="DICT"),
    option("--out", "the gin file; ./DATA.gin by default", type=expanded, metavar="FILE"),
    option("--action-bounds", "unit, env or as_is (load_dataset.action_bounds)", default="", metavar="RULE"),
    option("--episode-limit", "steps; the environment's by default", type=int, default=0, metavar="N"),
    option("--episodes", "of random actions, for reference; 20", type=int, default=20, metavar="N"),
    switch("--force", "replace the file"),
    PLUGIN,
)
def new_task(args: argparse.Namespace) -> None:
    """Write the gin file that trains on data of yours in an environment of yours, once the two are seen to fit."""
    from ast import literal_eval

    from dqlab.data.locate import reading_status
    from dqlab.tools.scaffold import new_task

    try:
        env_kwargs = dict(**literal_eval(args.env_kwargs))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        wanted = "a dictionary, such as \"{'gravity': 9.8}\""
        raise ConfigError(f"--env-kwargs must be {wanted}, not {args.env_kwargs!r}.") from error
    limits = (args.episode_limit, args.episodes)
    with reading_status(args.data):
        lines = new_task(args.data, args.env_id, env_kwargs, args.out, args.action_bounds, *limits, args.force)
    print(*lines, sep="\n")


@command(
    "score",
    """
    dqlab score hopper-medium-v2 -20.27 3234.3
    dqlab score walker2d returns.txt
    """,
    option("task", "e.g. hopper-medium-v2; a robot, e.g. walker2d; or your task's gin file", metavar="TASK"),
    option("returns", RETURNS, nargs="+", metavar="RETURN"),
    JSON,
    PLUGIN,
)
def score(args: argparse.Namespace) -> None:
    """D4RL-normalised scores of raw returns."""
    from dqlab.tools.score import print_scored, score_returns

    found = score_returns(str(_task_named(args.task)), args.returns)
    print(json.dumps(found, indent=1)) if args.json else print_scored(found)


OF_DATA = (_list, _download, _verify, _info, _convert)
DATA = Command("data", "List, fetch, check, describe and convert datasets.", commands=OF_DATA)


@command(
    "list",
    "dqlab list noise_schedule",
    option("kind", "e.g. noise_schedule; the kinds by default", nargs="?", completer=parser.complete_component),
    JSON + switch("--markdown", "tables of dqlab's own components: docs/components.md"),
    PLUGIN,
)
def list_components(args: argparse.Namespace) -> None:
    """List the kinds of components that gin files can choose, or those of a kind, with parameters and sources."""
    from dqlab.tools.describe import components_as_json, components_markdown, print_components

    if args.json or args.markdown:
        print((components_as_json if args.json else components_markdown)(args.kind))
    else:
        print_components(args.kind)


@command(
    "describe",
    "dqlab describe noise_schedule vp",
    option("kind", "e.g. noise_schedule", completer=parser.complete_component),
    option("name", "e.g. vp", nargs="?", default="", completer=parser.complete_component),
    PLUGIN,
)
def describe(args: argparse.Namespace) -> None:
    """Describe one component: parameters, gin example, the contract of its kind."""
    from dqlab.tools.describe import describe

    print(describe(args.kind, args.name))


@command("check", "dqlab check mylab", option("name", "entry point, distribution or module", metavar="PLUGIN"), PLUGIN)
def check_plugin(args: argparse.Namespace) -> bool:
    """Put every component of an installed plugin through the conformance suite."""
    from dqlab.tools.conformance.suite import examine

    failed = False
    try:
        for kind, name, trouble, skipped in examine(args.name):
            print(f"{kind} '{name}': {trouble or (f'not checked: {skipped}' if skipped else 'ok')}", flush=True)
            failed |= bool(trouble)
    except AssertionError as error:  # it registers nothing
        print(f"dqlab: {error}", file=sys.stderr)
        failed = True
    return failed


@command(
    "new-plugin",
    "dqlab new-plugin mylab",
    option("name", "of the package, e.g. mylab or my-lab"),
    option("--out", "folder to be made; ./NAME by default", type=expanded, metavar="DIR"),
)
def new_plugin(args: argparse.Namespace) -> None:
    """Write a package of your own with a component of each of five kinds, which passes `dqlab check`."""
    from dqlab.tools.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))


@command("doctor", "dqlab doctor", JSON)
def doctor(args: argparse.Namespace) -> bool:
    """Say what works on this machine, and the fix for what does not; exit code 1 if dqlab train could not work."""
    try:
        from dqlab.tools.doctor import report_machine
    except ImportError as error:
        raise ConfigError(f"dqlab train cannot work here yet: {error}. Fix: {pip_install()}") from error
    return not report_machine(args.json)
