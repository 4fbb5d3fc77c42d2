"""`dqlab list`, `describe`, `check`, `new-plugin`: what gin files can choose, and what a plugin adds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command, add_parser
from dqlab.files import expanded

LIST_EXAMPLES = """
dqlab list
dqlab list noise_schedule
dqlab list --json
"""
DESCRIBE_EXAMPLES = """
dqlab describe noise_schedule vp
"""
CHECK_EXAMPLES = """
dqlab check mylab
"""
NEW_PLUGIN_EXAMPLES = """
dqlab new-plugin mylab
"""


def add_list(commands: Any) -> None:
    """`dqlab list`."""
    text = "List the components that gin files can choose, with parameters and sources."
    parser = add_command(commands, "list", _list, text, LIST_EXAMPLES)
    parser.add_argument("kind", nargs="?", help="one kind only, e.g. noise_schedule")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known of each component, as JSON")
    form.add_argument("--markdown", action="store_true", help="tables of dqlab's own components: docs/components.md")


def _list(args: argparse.Namespace) -> int:
    from dqlab.config import catalogue
    from dqlab.config.plugins import load_plugins

    load_plugins(args.plugin)
    if args.json or args.markdown:
        print(catalogue.components_as_json(args.kind) if args.json else catalogue.components_markdown(args.kind))
    else:
        catalogue.print_components(args.kind)
    return 0


def add_describe(commands: Any) -> None:
    """`dqlab describe`."""
    text = "Describe one component: parameters, gin example, the contract of its kind."
    parser = add_command(commands, "describe", _describe, text, DESCRIBE_EXAMPLES)
    parser.add_argument("kind", help="e.g. noise_schedule")
    parser.add_argument("name", nargs="?", default="", help="e.g. vp")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _describe(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools import describe

    load_plugins(args.plugin)
    print((describe.describe_json if args.json else describe.describe)(args.kind, args.name))
    return 0


def add_check(commands: Any) -> None:
    """`dqlab check`."""
    text = "Put every component of an installed plugin through the conformance suite."
    parser = add_command(commands, "check", _check, text, CHECK_EXAMPLES)
    parser.add_argument("name", metavar="PLUGIN", help="its entry point, its distribution, or a module")


def _check(args: argparse.Namespace) -> int:
    from dqlab.config.plugins import load_plugins
    from dqlab.tools.conformance.suite import examine

    load_plugins(args.plugin)
    failed = False
    try:
        for kind, name, trouble, skipped in examine(args.name):
            verdict = trouble or (f"not checked: {skipped}" if skipped else "ok")
            print(f"{kind} '{name}': {verdict}", flush=True)
            failed |= bool(trouble)
    except AssertionError as error:  # it registers nothing
        print(f"dqlab: {error}", file=sys.stderr)
        return 1
    return int(failed)


def add_new_plugin(commands: Any) -> None:
    """`dqlab new-plugin`."""
    text = "Write a package of your own with a component of each of five kinds, which passes `dqlab check`."
    parser = add_parser(commands, "new-plugin", text, NEW_PLUGIN_EXAMPLES)
    parser.set_defaults(command=_new_plugin)
    parser.add_argument("name", help="of the package, e.g. mylab or my-lab")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="folder to be made; ./NAME by default")


def _new_plugin(args: argparse.Namespace) -> int:
    from dqlab.tools.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))
    return 0
