"""The parser of all commands: a command that there is not is answered with the nearest one there is."""

from __future__ import annotations

import argparse
import reprlib
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from dqlab.errors import ConfigError

MEANT = {
    "run": "train",
    "resume": "train",
    "runs": "ui",
    "mlflow": "ui",
    "test": "eval",
    "play": "eval",
    "render": "eval",
    "video": "eval",
    "sweep": "ablate",
    "grid": "ablate",
    "report": "ablate",
    "parts": "list",
    "help": "--help",
}
"""What other programs, and people, call it."""
CLOSE = 0.4


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for a command that there is not."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """See that the command exists; argparse calls this for whatever has choices.

        Raises:
            ConfigError: it does not; the message names the nearest.
        """
        commands = action.choices if isinstance(action.choices, dict) else {}
        if commands and value not in commands:
            raise ConfigError(
                f"{self.prog} has no command {reprlib.repr(value)}. {_nearest(str(value), self.prog, commands)}"
            )
        super()._check_value(action, value)


def _nearest(value: str, prog: str, commands: dict[str, Any]) -> str:
    """The commands that may have been meant; all of them where none is like it."""
    paths = dict(_paths(prog, commands))
    if value in MEANT and MEANT[value] in (*commands, "--help"):
        return f"Did you mean `{prog} {MEANT[value]}`?"
    likeness = {path: _likeness(name, value.lower()) for path, name in paths.items()}
    best = max(likeness.values())
    if best < CLOSE:
        return f"There are {', '.join(sorted(commands))}."
    near = sorted((path for path in paths if likeness[path] >= best - 0.05), key=lambda path: (-likeness[path], path))
    return f"Did you mean {' or '.join(f'`{path}`' for path in near[:3])}? `{prog} --help` shows all."


def _likeness(name: str, value: str) -> float:
    """0 to 1; a word that is longer or shorter at its end only is the word."""
    return float(name.startswith(value) or value.startswith(name)) or SequenceMatcher(None, name, value).ratio()


def _paths(prog: str, commands: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every command as it is typed, those below others included, and its last word."""
    for name, parser in commands.items():
        yield f"{prog} {name}", name
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from _paths(f"{prog} {name}", dict(action.choices))
