"""What there is to choose, what plugins add (`list`, `describe`, `check`, `new-plugin`), and checks of the machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dqlab.cli.parser import JSON, PLUGIN, command, complete_component, one_of, option, switch
from dqlab.errors import ConfigError
from dqlab.files import expanded


@command(
    "list",
    "dqlab list noise_schedule",
    option("kind", "one kind only, e.g. noise_schedule", nargs="?", completer=complete_component),
    one_of(JSON, switch("--markdown", "tables of dqlab's own components: docs/components.md")),
    PLUGIN,
)
def list_components(args: argparse.Namespace) -> None:
    """List the components that gin files can choose, with parameters and sources."""
    from dqlab.tools.describe import components_as_json, components_markdown, print_components

    if args.json or args.markdown:
        print((components_as_json if args.json else components_markdown)(args.kind))
    else:
        print_components(args.kind)


@command(
    "describe",
    "dqlab describe noise_schedule vp",
    option("kind", "e.g. noise_schedule", completer=complete_component),
    option("name", "e.g. vp", nargs="?", default="", completer=complete_component),
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
        raise ConfigError(f"dqlab train cannot work here yet: {error}. Fix: pip install dqlab") from error
    return not report_machine(args.json)
