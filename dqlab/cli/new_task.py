"""`dqlab new-task`: data and an environment of yours become a task."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from dqlab.cli.options import add_command
from dqlab.errors import ConfigError
from dqlab.files import expanded

EXAMPLES = """
dqlab new-task mine.npz --env-id my_envs:Mine-v0
"""


def add_new_task(commands: Any) -> None:
    """`dqlab new-task`."""
    text = "Write the gin file that trains on data of yours in an environment of yours, once the two are seen to fit."
    parser = add_command(commands, "new-task", _new_task, text, EXAMPLES)
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


def _new_task(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.data.locate import reading_status
    from dqlab.tools.new_task import new_task

    load_plugins(args.plugin)
    given = {name: getattr(args, name) for name in ("out", "episode_limit", "episodes", "force")}
    given |= {"rule": args.action_bounds, "env_kwargs": _dict(args.env_kwargs)}
    with reading_status(args.data):
        lines = new_task(args.data, args.env_id, **given)
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
