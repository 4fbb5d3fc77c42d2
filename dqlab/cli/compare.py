"""`dqlab compare`: compare runs."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.options import add_command, add_uri

EXAMPLES = """
dqlab compare runs/steps
dqlab compare runs/mine runs/theirs --rule last offline
"""


def add_compare(commands: Any) -> None:
    """`dqlab compare`."""
    text = "Say what differs between runs, and what they score, with intervals over seeds."
    parser = add_command(commands, "compare", _compare, text, EXAMPLES)
    parser.add_argument(
        "runs", nargs="*", type=expanduser, metavar="RUN", help="folder of a run, a grid or a pack, or an MLflow run id"
    )
    parser.add_argument("--experiment", metavar="NAME", help="all runs of an MLflow experiment")
    parser.add_argument("--filter", default="", help="MLflow's, e.g. \"params.N = '5'\"; with --experiment")
    parser.add_argument("--rule", nargs="+", help="selection rules: last, offline, best-online (these by default), ...")
    form = parser.add_mutually_exclusive_group()
    for name, text in (("json", "JSON"), ("csv", "CSV, a row a figure"), ("latex", "LaTeX tables (booktabs)")):
        form.add_argument(f"--{name}", action="store_const", const=name, dest="form", help=f"as {text}")
    add_uri(parser)


def _compare(args: argparse.Namespace) -> int:
    from dqlab.analysis import run_compare

    run_compare(args.runs, args.experiment, args.filter, args.uri, args.rule, args.form)
    return 0
