"""`dqlab list`, `describe`, `check`, `new-plugin`, `new-task`: what gin files can choose."""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command
from dqlab.errors import ConfigError
from dqlab.files import expanded


def add(commands: Any) -> None:
    """Add these commands."""
    _add_list(commands)
    _add_describe(commands)
    _add_check(commands)
    _add_new_plugin(commands)
    _add_new_task(commands)


def _add_list(commands: Any) -> None:
    parser = add_command(
        commands, "list", _list, "List the parts that gin files can choose, with parameters and sources."
    )
    parser.add_argument("kind", nargs="?", help="one kind only, e.g. noise_schedule")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known of each part, as JSON")
    form.add_argument("--markdown", action="store_true", help="tables of dqlab's own parts: docs/components.md")


def _add_describe(commands: Any) -> None:
    parser = add_command(
        commands, "describe", _describe, "Describe one part: parameters, gin example, the contract of its kind."
    )
    parser.add_argument("kind", help="e.g. noise_schedule")
    parser.add_argument("name", nargs="?", default="", help="e.g. vp")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_check(commands: Any) -> None:
    parser = add_command(
        commands, "check", _check, "Put every part of an installed plugin through the conformance suite."
    )
    parser.add_argument("name", metavar="PLUGIN", help="its entry point, its distribution, or a module")


def _add_new_plugin(commands: Any) -> None:
    text = "Write a package of your own with a part of each of five kinds, which passes `dqlab check`."
    parser = commands.add_parser("new-plugin", help=text, description=text)
    parser.set_defaults(command=_new_plugin)
    parser.add_argument("name", help="of the package, e.g. mylab or my-lab")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="folder to be made; ./NAME by default")


def _add_new_task(commands: Any) -> None:
    text = "Write the gin file that trains on data of yours in an environment of yours, once the two are seen to fit."
    parser = add_command(commands, "new-task", _new_task, text)
    options: dict[str, dict[str, Any]] = {
        "data": {"metavar": "DATA", "help": "a path, or minari:ID"},
        "--env-id": {"required": True, "metavar": "MODULE:ID", "help": "importing MODULE registers ID; or ID alone"},
        "--env-kwargs": {"default": "{}", "metavar": "DICT", "help": "its arguments, e.g. \"{'gravity': 9.8}\""},
        "--out": {"type": expanded, "metavar": "FILE", "help": "the gin file; ./DATA.gin by default"},
        "--action-bounds": {
            "default": "",
            "metavar": "RULE",
            "help": "unit, env or as_is (load_dataset.action_bounds)",
        },
        "--episode-limit": {"type": int, "default": 0, "metavar": "N", "help": "steps; the environment's by default"},
        "--episodes": {"type": int, "default": 20, "metavar": "N", "help": "of random actions, for reference; 20"},
    }
    for name, known in options.items():
        parser.add_argument(name, **known)
    parser.add_argument("--force", action="store_true", help="replace the file")


def _list(args: argparse.Namespace) -> int:
    from dqlab.config import catalogue
    from dqlab.config.plugins import load_plugins

    load_plugins(args.plugin)
    if args.json or args.markdown:
        print(catalogue.components_as_json(args.kind) if args.json else catalogue.components_markdown(args.kind))
    else:
        catalogue.print_parts(args.kind)
    return 0


def _describe(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools import describe

    load_plugins(args.plugin)
    print((describe.describe_json if args.json else describe.describe)(args.kind, args.name))
    return 0


def _check(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools.conformance.suite import examine

    load_plugins(args.plugin)
    failed = False
    try:
        for kind, name, trouble in examine(args.name):
            print(f"{kind} '{name}': {trouble or 'ok'}", flush=True)
            failed |= bool(trouble)
    except AssertionError as error:  # it registers nothing
        print(f"dqlab: {error}", file=sys.stderr)
        return 1
    return int(failed)


def _new_plugin(args: argparse.Namespace) -> int:
    from dqlab.tools.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))
    return 0


def _new_task(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.data.describe import reading_progress
    from dqlab.tools.new_task import NewTaskRequest, new_task

    load_plugins(args.plugin)
    counts = {"episode_limit": args.episode_limit, "episodes": args.episodes}
    asked = NewTaskRequest(
        args.data, args.env_id, _dict(args.env_kwargs), args.out, args.action_bounds, force=args.force, **counts
    )
    with reading_progress(args.data) as tell:
        lines = new_task(asked, tell)
    for line in lines:
        print(line)
    return 0


def _dict(text: str) -> dict[str, Any]:
    """A dictionary as Python writes it."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"--env-kwargs must be a dictionary, such as \"{{'gravity': 9.8}}\", not {text!r}.")
    return found
