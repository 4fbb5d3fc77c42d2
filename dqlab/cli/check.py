"""`dqlab check`: a plugin through the conformance suite."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dqlab.cli.options import add_command

EXAMPLES = """
dqlab check mylab
"""


def add_check(commands: Any) -> None:
    """`dqlab check`."""
    parser = add_command(
        commands, "check", _check, "Put every component of an installed plugin through the conformance suite.", EXAMPLES
    )
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
