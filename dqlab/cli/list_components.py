"""`dqlab list`: what gin files can choose."""

from __future__ import annotations

import argparse
from typing import Any

from dqlab.cli.options import add_command

EXAMPLES = """
dqlab list
dqlab list noise_schedule
dqlab list --json
"""


def add_list(commands: Any) -> None:
    """`dqlab list`."""
    parser = add_command(
        commands, "list", _list, "List the components that gin files can choose, with parameters and sources.", EXAMPLES
    )
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
