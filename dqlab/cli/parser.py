"""How commands are declared, their parser, and the options and steps that several of them share."""

from __future__ import annotations

import argparse
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from textwrap import dedent, indent
from typing import Any, NamedTuple, NoReturn

from dqlab.errors import ConfigError

Function = Callable[[argparse.Namespace], Any]
"""What a command does; the exit code, or nothing for 0."""
Options = list[tuple[Sequence[str], dict[str, Any], Any]]
"""An option, or a sum of some that exclude each other: of each argparse's names and settings, and a shell's offers."""


def option(name: str, text: str, *short: str, completer: Any = None, **settings: Any) -> Options:
    """An argument as argparse takes it; the completer says what a shell offers."""
    return [((*short, name), {"help": text, **settings}, completer)]


def setting(name: str, text: str, binds: str, **settings: Any) -> Options:
    """An option that is the value of a parameter in gin: `bindings_of` finds it."""
    return option(name, f"{text} ({binds})", dest=binds, metavar=name.strip("-").upper(), **settings)


switch = partial(option, action="store_true")


class Command(NamedTuple):
    """A command, or a group, which has `commands`, whose examples are its own, and no function."""

    name: str
    text: str  # what it does
    examples: str = ""  # one a line, shown below its help
    options: Sequence[Options] = ()  # with `PLUGIN` among them, installed plugins are loaded, too
    function: Function | None = None
    commands: Sequence[Command] = ()


def command(name: str, examples: str, *options: Options) -> Callable[[Function], Command]:
    """Make a function a command; what it does is the function's docstring."""
    return lambda function: Command(name, function.__doc__ or "", examples, options, function)


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for a command that there is not, naming the nearest; `commands` are those below."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.commands: Mapping[str, Parser] = {}
        # `-1e3`, `-.5` and `-inf` are arguments, not options. There is no public way to say so; where the attribute
        # goes away, `dqlab score hopper-medium-v2 -1e3` tells (`tests/cli/test_help.py`).
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)", re.IGNORECASE)

    def add_commands(self, commands: Iterable[Command], listed: bool = True) -> None:
        """Add commands below this one; argparse lists them in the help, if `listed`."""
        added = self.add_subparsers(required=True, metavar="COMMAND", help=None if listed else "one of these:")
        self.commands = added.choices
        for command in commands:
            shown: Any = {"help": command.text} if listed else {}
            lines = command.examples or "\n".join(each.examples for each in command.commands)
            examples = "examples:\n" + indent(dedent(lines).strip(), "  ")
            parser: Parser = added.add_parser(command.name, description=command.text, epilog=examples, **shown)
            parser.set_defaults(command=command.function)
            for options in command.options:
                group = parser.add_mutually_exclusive_group() if len(options) > 1 else parser
                for names, settings, completer in options:
                    group.add_argument(*names, **settings).completer = completer  # type: ignore[attr-defined]
            if command.commands:
                parser.add_commands(command.commands)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, which calls this for the commands below as well; a ConfigError where there is no such one."""
        given = sys.argv[1:] if args is None else args
        if self.commands and given and not given[0].startswith("-") and given[0] not in self.commands:
            raise ConfigError(f"{self.prog} has no command {reprlib.repr(given[0])}. {self._nearest(given[0])}")
        parsed, rest = super().parse_known_args(args, namespace)
        if rest and not self.commands:  # argparse would have the topmost parser say so
            like = get_close_matches(rest[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(rest)}" + (f" (did you mean {like[0]}?)" if like else ""))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """In one line; argparse would print the usage above it."""
        raise ConfigError(f"{message}. `{self.prog} --help` shows what it takes.")

    def _nearest(self, value: str) -> str:
        """The commands, those below others included, that may have been meant; all of them where none is like it."""
        below = [f"{name} {command}" for name, parser in self.commands.items() for command in parser.commands]
        last_words = {path.split()[-1]: path for path in reversed([*self.commands, *below])}
        begun = [word for word in last_words if word.startswith(value) or value.startswith(word)]
        close = begun[:3] or get_close_matches(value, last_words, n=1)
        meant = " or ".join(f"`{self.prog} {last_words[word]}`" for word in close)
        return f"Did you mean {meant}?" if close else f"There are {', '.join(sorted(self.commands))}."


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


PLUGIN = option("--plugin", "a module of yours to import; once for each", metavar="MODULE", action="append", default=[])
SET = option("--set", "bindings, as DiffusionQL.eta=0.5", metavar="NAME=VALUE", action="extend", nargs="+", default=[])
GIN = option(
    "--gin", "gin file, yours or dqlab's; later ones win", metavar="FILE", action="append", completer=complete_gin_file
)
JSON = switch("--json", "as JSON")


def bindings_of(args: argparse.Namespace) -> list[str]:
    """Bindings by the `setting`s that were given; lists are tuples."""
    given = {name: value for name, value in vars(args).items() if "." in name and value is not None}
    return [f"{name}={tuple(value) if isinstance(value, list) else value!r}" for name, value in given.items()]


def load_configuration(args: argparse.Namespace, extra: Sequence[str] = (), stored: bool = False) -> Any:
    """The configuration that the arguments name; what `gin_files.load_gin` returns."""
    from dqlab.config import gin_files

    return gin_files.load_gin(args.gin, [*args.set, *extra], args.plugin, stored)
