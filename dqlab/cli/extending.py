"""What there is to choose, what plugins add (`list`, `describe`, `check`, `new-plugin`), and checks of the machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dqlab.cli.parser import add_command, add_parser, complete_component
from dqlab.errors import ConfigError
from dqlab.files import expanded

LIST_EXAMPLES = """
dqlab list
dqlab list noise_schedule
dqlab list --json
"""


def add_list(commands: Any) -> None:
    """`dqlab list`."""
    text = "List the components that gin files can choose, with parameters and sources."
    parser = add_command(commands, "list", _list, text, LIST_EXAMPLES)
    kind: Any = parser.add_argument("kind", nargs="?", help="one kind only, e.g. noise_schedule")
    kind.completer = complete_component
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known of each component, as JSON")
    form.add_argument("--markdown", action="store_true", help="tables of dqlab's own components: docs/components.md")


def _list(args: argparse.Namespace) -> None:
    from dqlab.config import catalogue

    if args.json or args.markdown:
        print(catalogue.components_as_json(args.kind) if args.json else catalogue.components_markdown(args.kind))
    else:
        catalogue.print_components(args.kind)


def add_describe(commands: Any) -> None:
    """`dqlab describe`."""
    text = "Describe one component: parameters, gin example, the contract of its kind."
    parser = add_command(commands, "describe", _describe, text, "dqlab describe noise_schedule vp")
    kind: Any = parser.add_argument("kind", help="e.g. noise_schedule")
    name: Any = parser.add_argument("name", nargs="?", default="", help="e.g. vp")
    kind.completer = name.completer = complete_component


def _describe(args: argparse.Namespace) -> None:
    from dqlab.tools.describe import describe

    print(describe(args.kind, args.name))


def add_check(commands: Any) -> None:
    """`dqlab check`."""
    text = "Put every component of an installed plugin through the conformance suite."
    parser = add_command(commands, "check", _check, text, "dqlab check mylab")
    parser.add_argument("name", metavar="PLUGIN", help="its entry point, its distribution, or a module")


def _check(args: argparse.Namespace) -> bool:
    from dqlab.tools.conformance.suite import examine

    failed = False
    try:
        for kind, name, trouble, skipped in examine(args.name):
            verdict = trouble or (f"not checked: {skipped}" if skipped else "ok")
            print(f"{kind} '{name}': {verdict}", flush=True)
            failed |= bool(trouble)
    except AssertionError as error:  # it registers nothing
        print(f"dqlab: {error}", file=sys.stderr)
        return True
    return failed


def add_new_plugin(commands: Any) -> None:
    """`dqlab new-plugin`."""
    text = "Write a package of your own with a component of each of five kinds, which passes `dqlab check`."
    parser = add_parser(commands, "new-plugin", _new_plugin, text, "dqlab new-plugin mylab")
    parser.add_argument("name", help="of the package, e.g. mylab or my-lab")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="folder to be made; ./NAME by default")


def _new_plugin(args: argparse.Namespace) -> None:
    from dqlab.tools.scaffold import write_plugin

    print(write_plugin(args.name, args.out or Path(args.name)))


def add_doctor(commands: Any) -> None:
    """`dqlab doctor`."""
    text = "Say what works on this machine, and the fix for what does not; exit code 1 if dqlab train could not work."
    parser = add_parser(commands, "doctor", _doctor, text, "dqlab doctor")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _doctor(args: argparse.Namespace) -> bool:
    try:
        from dqlab.tools.doctor import can_train, examine_machine, findings_as_json, print_findings
    except ImportError as error:
        raise ConfigError(f"dqlab train cannot work here yet: {error}. Fix: pip install dqlab") from error
    findings = examine_machine()
    if args.json:
        print(findings_as_json(findings))
    else:
        print_findings(findings)
    return not can_train(findings)
