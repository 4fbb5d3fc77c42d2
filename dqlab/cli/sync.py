"""`dqlab sync`: send what MLflow lacks."""

from __future__ import annotations

import argparse
from typing import Any

from dqlab.cli.options import add_command
from dqlab.files import expanded

EXAMPLES = """
dqlab sync runs/mine
dqlab sync runs/steps --to http://127.0.0.1:5000
"""


def add_sync(commands: Any) -> None:
    """`dqlab sync`."""
    parser = add_command(
        commands, "sync", _sync, "Send to MLflow what could not be sent while a run was training.", EXAMPLES
    )
    parser.add_argument("runs", nargs="+", type=expanded, metavar="RUN", help="folder of a run, or of a grid")
    text = "MLflow's tracking URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default"
    parser.add_argument("--to", metavar="URI", help=text)


def _sync(args: argparse.Namespace) -> int:
    from dqlab.tracking.mlflow.mirror import sync_to_mlflow

    for run in args.runs:
        path, uri = sync_to_mlflow(run, args.to or "")
        print(f"{path}: MLflow ({uri}) has all of it.")
    return 0
