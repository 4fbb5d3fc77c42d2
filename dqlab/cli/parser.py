"""The parser of all commands, and the options and steps that several of them share."""

from __future__ import annotations

import argparse
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from textwrap import indent
from typing import Any

from dqlab.errors import ConfigError

Function = Callable[[argparse.Namespace], Any]
"""What a command does; the exit code, or nothing for 0."""


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for a command that there is not, which names the nearest one that there is.

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
            raise ConfigError(f"{self.prog} has no command {reprlib.repr(given[0])}. {self._nearest(given[0])}")
        return super().parse_known_args(args, namespace)

    def _nearest(self, value: str) -> str:
        """The commands, those below others included, that may have been meant; all of them where none is like it."""
        last_words = {path.split()[-1]: path for path in reversed([*self._paths()])}
        begun = [word for word in last_words if word.startswith(value) or value.startswith(word)]
        close = begun[:3] or get_close_matches(value, last_words, n=1)
        meant = " or ".join(f"`{self.prog} {last_words[word]}`" for word in close)
        return f"Did you mean {meant}?" if close else f"There are {', '.join(sorted(self.commands))}."

    def _paths(self) -> Iterator[str]:
        """Every command as it is typed, those below others included."""
        for name, parser in self.commands.items():
            yield name
            yield from (f"{name} {below}" for below in parser._paths())

    def accept_numbers(self) -> None:
        """Take `-1e3`, `-.5` and `-inf` for arguments, not for options.

        argparse has no public way to say which words that begin with a dash are numbers: the attribute is its own.
        Where it goes away, or Python's pattern learns those numbers, `dqlab score hopper-medium-v2 -1e3` tells
        (`tests/cli/test_help.py`).
        """
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)", re.IGNORECASE)


def add_parser(commands: Any, name: str, function: Function | None, text: str, examples: str, **options: Any) -> Parser:
    """A command that does what `text` says; its help ends with examples, one a line."""
    epilog = "examples:\n" + indent(examples.strip(), "  ")
    parser: Parser = commands.add_parser(
        name, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    parser.set_defaults(command=function)
    return parser


def add_command(commands: Any, name: str, function: Function, text: str, examples: str, **options: Any) -> Parser:
    """A command before which plugins are loaded: those that are installed, then what `--plugin` names."""
    parser = add_parser(commands, name, partial(_with_plugins, function), text, examples, **options)
    add_plugin(parser)
    return parser


def add_group(commands: Any, name: str, text: str, examples: str, metavar: str = "COMMAND") -> Any:
    """A command that has commands below it, which are added to what this gives."""
    return add_parser(commands, name, None, text, examples).add_subparsers(required=True, metavar=metavar)


def _with_plugins(function: Function, args: argparse.Namespace) -> Any:
    from dqlab.config.plugins import load_plugins

    load_plugins(args.plugin)
    return function(args)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """The option of modules to import."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="import a module of yours first"
    )


def add_gin(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Options of a configuration: --gin, --set and --plugin."""
    text = "gin file, of yours or of those that ship with dqlab; later ones override"
    option: Any = parser.add_argument(
        "--gin", action="append", required=required, default=None, metavar="FILE", help=text
    )
    option.completer = complete_gin_file
    add_set(parser)
    add_plugin(parser)


def complete_gin_file(prefix: str, **_: Any) -> list[str]:
    """What a shell offers: gin files here, and those that ship with dqlab."""
    from argcomplete.completers import FilesCompleter

    from dqlab.config.gin_files import SHIPPED

    shipped = [file.relative_to(folder.parent).as_posix() for folder in SHIPPED for file in folder.rglob("*.gin")]
    return [*FilesCompleter(["gin"])(prefix), *shipped]


def complete_component(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """What a shell offers for a component: kinds, and behind a kind its names."""
    from dqlab.config.plugins import load_plugins
    from dqlab.config.registry import Registry

    load_plugins()
    kind = Registry.kinds.get(parsed_args.kind)
    return kind.names() if kind else [*Registry.kinds]


def add_set(parser: argparse.ArgumentParser) -> None:
    """The option of single bindings."""
    text = "one binding, e.g. DiffusionQL.eta=0.5"
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help=text)


def add_uri(parser: argparse.ArgumentParser) -> None:
    """The option of MLflow's address."""
    parser.add_argument("--uri", help="MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db here, by default")


def bindings_of(chosen: Mapping[str, Any]) -> list[str]:
    """Bindings of the options that were given, gin name -> value; lists as tuples."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    return [f"{name}={value!r}" for name, value in given.items() if value is not None]


def load_configuration(args: argparse.Namespace, extra: Sequence[str] = (), stored: bool = False) -> Any:
    """Plugins, then the configuration that the arguments name; what `gin_files.load_gin` returns."""
    from dqlab.config import gin_files
    from dqlab.config.plugins import load_plugins

    load_plugins()
    return gin_files.load_gin(args.gin, [*args.set, *extra], args.plugin, stored)
