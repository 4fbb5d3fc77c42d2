"""`dqlab ui`: show runs in a browser."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.options import add_command

EXAMPLES = """
dqlab ui runs
"""


def add_ui(commands: Any) -> None:
    """`dqlab ui`."""
    parser = add_command(commands, "ui", _ui, "Open MLflow's pages on the runs that were recorded here.", EXAMPLES)
    parser.add_argument(
        "place", nargs="?", type=expanduser, metavar="DIR|URI", help="runs, one run, a grid, or MLflow's tracking URI"
    )
    parser.add_argument("--port", type=int, default=5000, help="the next free one from it; 5000 by default")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")


def _ui(args: argparse.Namespace) -> int:
    from dqlab.tracking.mlflow.ui import serve_ui

    return serve_ui(args.place, args.host, args.port)
