"""MLflow: `dqlab sync`: send what it lacks; `dqlab ui`: its pages."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import Any

from dqlab.cli.parser import add_parser
from dqlab.files import expanded

SYNC_EXAMPLES = """
dqlab sync runs/mine
dqlab sync runs/steps --to http://127.0.0.1:5000
"""


def add_sync(commands: Any) -> None:
    """`dqlab sync`."""
    text = "Send to MLflow what could not be sent while a run was training."
    parser = add_parser(commands, "sync", _sync, text, SYNC_EXAMPLES)
    parser.add_argument("runs", nargs="+", type=expanded, metavar="RUN", help="folder of a run, or of a grid")
    text = "MLflow's tracking URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default"
    parser.add_argument("--to", metavar="URI", help=text)


def _sync(args: argparse.Namespace) -> None:
    from dqlab.tracking.mlflow.mirror import sync_to_mlflow

    for run in args.runs:
        path, uri = sync_to_mlflow(run, args.to or "")
        print(f"{path}: MLflow ({uri}) has all of it.")


def add_ui(commands: Any) -> None:
    """`dqlab ui`."""
    text = "Open MLflow's pages on the runs that were recorded here."
    parser = add_parser(commands, "ui", _ui, text, "dqlab ui runs")
    text = "runs, one run, a grid, or MLflow's tracking URI"
    parser.add_argument("place", nargs="?", type=expanduser, metavar="DIR|URI", help=text)
    parser.add_argument("--port", type=int, default=5000, help="the next free one from it; 5000 by default")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")


def _ui(args: argparse.Namespace) -> int:
    from dqlab.tracking.mlflow.ui import serve_ui

    return serve_ui(args.place, args.host, args.port)
