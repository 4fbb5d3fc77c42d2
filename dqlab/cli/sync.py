"""`dqlab sync`: send what MLflow lacks."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command
from dqlab.files import expanded
from dqlab.tracking.mlflow.sync import sync_to_mlflow


def add_sync(commands: Any) -> None:
    parser = add_command(commands, "sync", _sync, "Send to MLflow what could not be sent while a run was training.")
    parser.add_argument("runs", nargs="+", type=expanded, metavar="RUN")
    text = "MLflow's tracking URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default"
    parser.add_argument("--to", metavar="URI", help=text)


def _sync(args: argparse.Namespace) -> int:
    # DROPPED-IMPORT

    if args.to:
        os.environ["MLFLOW_TRACKING_URI"] = args.to
    for run in args.runs:
        sync(run)
    return 0


def sync(path: Path) -> None:
    """Send the rest of a run or of a grid to MLflow; a pack's folder stands for its grid.

    Raises:
        RunError: this is neither, or the server still cannot be reached.
    """
    path, uri = sync_to_mlflow(path)
    print(f"{path}: MLflow ({uri}) has all of it.")
