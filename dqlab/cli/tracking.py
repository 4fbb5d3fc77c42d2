"""MLflow: `dqlab sync`: send what it lacks; `dqlab ui`: its pages."""

from __future__ import annotations

import argparse
from os.path import expanduser

from dqlab.cli.parser import command, option
from dqlab.files import expanded


@command(
    "sync",
    "dqlab sync runs/steps --to http://127.0.0.1:5000",
    option("runs", "folder of a run, or of a grid", nargs="+", type=expanded, metavar="RUN"),
    option("--to", "MLflow's URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default", metavar="URI"),
)
def sync(args: argparse.Namespace) -> None:
    """Send to MLflow what could not be sent while a run was training."""
    from dqlab.tracking.mlflow.mirror import sync_to_mlflow

    for run in args.runs:
        path, uri = sync_to_mlflow(run, args.to or "")
        print(f"{path}: MLflow ({uri}) has all of it.")


@command(
    "ui",
    "dqlab ui runs",
    option("place", "runs, one run, a grid, or MLflow's URI", nargs="?", type=expanduser, metavar="DIR|URI"),
    option("--port", "the next free one from it; 5000 by default", type=int, default=5000),
    option("--host", "address to listen on; this machine only by default", default="127.0.0.1"),
)
def ui(args: argparse.Namespace) -> int:
    """Open MLflow's pages on the runs that were recorded here."""
    from dqlab.tracking.mlflow.ui import serve_ui

    return serve_ui(args.place, args.host, args.port)
