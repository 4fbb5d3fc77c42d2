"""The parser of all commands: a command that there is not is answered with the nearest one there is."""

from __future__ import annotations

import argparse
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from dqlab.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for a command that there is not.

    Attributes:
        commands: the commands below it, by name; each has a parser of this class.
    """

    commands: Mapping[str, Parser]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = {}

    def add_subparsers(self, **options: Any) -> Any:
        """As in argparse; the commands that are added to what this gives are `commands`."""
        added = super().add_subparsers(**options)
        self.commands = added.choices
        return added

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, which calls this for the commands below as well.

        Raises:
            ConfigError: the first argument is no command; the message names the nearest.
        """
        given = sys.argv[1:] if args is None else args
        if self.commands and given and not given[0].startswith("-") and given[0] not in self.commands:
            raise ConfigError(
                f"{self.prog} has no command {reprlib.repr(given[0])}. {_nearest(given[0], self.prog, self.commands)}"
            )
        return super().parse_known_args(args, namespace)

    def accept_numbers(self) -> None:
        """Take `-1e3`, `-.5` and `-inf` for arguments, not for options.

        argparse has no public way to say which words that begin with a dash are numbers: the attribute is its own.
        Where it goes away, or Python's pattern learns those numbers, `dqlab score hopper-medium-v2 -1e3` tells
        (`tests/test_cli.py`).
        """
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)", re.IGNORECASE)


MEANT = {
    "run": "train",
    "resume": "train",
    "mlflow": "ui",
    "test": "eval",
    "play": "eval",
    "render": "eval",
    "video": "eval",
    "sweep": "ablate",
    "grid": "ablate",
    "report": "ablate",
    "parts": "list",
    "components": "list",
    "help": "--help",
}
"""What other programs, and people, call it."""
CLOSE = 0.4
"""Likeness below which nothing is near."""


def _nearest(value: str, prog: str, commands: Mapping[str, Parser]) -> str:
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


def _paths(prog: str, commands: Mapping[str, Parser]) -> Iterator[tuple[str, str]]:
    """Every command as it is typed, those below others included, and its last word."""
    for name, parser in commands.items():
        yield f"{prog} {name}", name
        yield from _paths(f"{prog} {name}", parser.commands)
