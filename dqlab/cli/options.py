"""What several commands share: options, and how a configuration is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from textwrap import indent
from typing import Any

from dqlab.cli.parser import Parser


def add_parser(commands: Any, name: str, text: str, examples: str = "", **options: Any) -> Parser:
    """A command that says in `text` what it does; its help ends with examples, one a line."""
    epilog = "examples:\n" + indent(examples.strip(), "  ") if examples else None
    parser: Parser = commands.add_parser(
        name, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    return parser


def add_command(commands: Any, name: str, function: Any, text: str, examples: str, **options: Any) -> Parser:
    """A command with the options that all have."""
    parser = add_parser(commands, name, text, examples, **options)
    parser.set_defaults(command=function)
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="import a module of yours first"
    )
    return parser


def add_group(commands: Any, name: str, text: str, examples: str, metavar: str = "COMMAND") -> Any:
    """A command that has commands below it, which `add_subcommand` adds to what this gives."""
    return add_parser(commands, name, text, examples).add_subparsers(required=True, metavar=metavar)


def add_subcommand(group: Any, name: str, function: Any, text: str, examples: str) -> Parser:
    """A command below another, whose help lists it."""
    return add_command(group, name, function, text, examples, help=text)


def add_gin(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Options of a configuration: --gin and --set."""
    text = "gin file, of yours or of those that ship with dqlab; later ones override"
    parser.add_argument("--gin", action="append", required=required, default=None, metavar="FILE", help=text)
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """The option of single bindings."""
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="one binding, e.g. DiffusionQL.eta=0.5",
    )


def add_uri(parser: argparse.ArgumentParser) -> None:
    """The option of MLflow's address."""
    parser.add_argument("--uri", help="MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db here, by default")


def load_configuration(args: argparse.Namespace, extra: Sequence[str] = (), stored: bool = False) -> Any:
    """Plugins, then the configuration that the arguments name; what `gin_files.load_gin` returns."""
    from dqlab.config import gin_files
    from dqlab.config.plugins import load_plugins

    load_plugins()
    return gin_files.load_gin(args.gin, [*args.set, *extra], args.plugin, stored)
