"""`dqlab sync`, `ui`, `bench`, `fidelity`: what is recorded and measured."""

from __future__ import annotations

import argparse
import os
from os.path import expanduser
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_uri, command
from dqlab.files import expanded


def add(commands: Any) -> None:
    """Add these commands."""
    _add_sync(commands)
    _add_ui(commands)
    _add_bench(commands)
    _add_fidelity(commands)


def _add_sync(commands: Any) -> None:
    parser = command(commands, "sync", _sync, "Send to MLflow what could not be sent while a run was training.")
    parser.add_argument("runs", nargs="+", type=expanded, metavar="RUN")
    text = "MLflow's tracking URI; $MLFLOW_TRACKING_URI, or mlflow.db beside the folder, by default"
    parser.add_argument("--to", metavar="URI", help=text)


def _add_ui(commands: Any) -> None:
    parser = command(commands, "ui", _ui, "Open MLflow's pages on the runs that were recorded here.")
    parser.add_argument(
        "place", nargs="?", type=expanduser, metavar="DIR|URI", help="runs, one run, a grid, or MLflow's tracking URI"
    )
    parser.add_argument("--port", type=int, default=5000, help="the next free one from it; 5000 by default")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")


def _add_bench(commands: Any) -> None:
    text = "Compare, report or send what `pytest benchmarks/` measured."
    doors = commands.add_parser("bench", help=text, description=text).add_subparsers(required=True, metavar="COMMAND")
    compare = command(doors, "compare", _bench_compare, "Show each benchmark's history, and say which got worse.")
    add_figures(compare)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    report = command(doors, "report", _bench_report, "Write the latest figures as a Markdown table and plots.")
    add_figures(report)
    report.add_argument(
        "--out", type=expanded, default=Path("runs/benchmarks/report"), help="folder; runs/benchmarks/report by default"
    )
    send = command(doors, "send", _bench_send, "Send to MLflow what could not be sent after the benchmarks.")
    send.add_argument("files", nargs="+", type=expanded, metavar="FILE.json")
    add_uri(send)


def _add_fidelity(commands: Any) -> None:
    text = "Step today's environments and D4RL's own (`make legacy`) side by side; write a Markdown page on it."
    parser = command(commands, "fidelity", _fidelity, text)
    parser.add_argument("--out", type=expanded, default=Path("fidelity.md"), help="the page; fidelity.md by default")
    parser.add_argument("--robot", nargs="+", default=[], metavar="NAME", help="these of D4RL's environments; all")
    parser.add_argument(
        "--run", type=expanded, action="append", default=[], help="evaluate this run's policy in both too"
    )
    parser.add_argument("--episodes", type=int, default=10, help="roll-outs and episodes of each figure; 10 by default")


def _sync(args: argparse.Namespace) -> int:
    from dqlab.report import sync

    if args.to:
        os.environ["MLFLOW_TRACKING_URI"] = args.to
    for run in args.runs:
        sync(run)
    return 0


def _ui(args: argparse.Namespace) -> int:
    from dqlab.tracking.ui import serve

    return serve(args.place, args.host, args.port)


def _bench_compare(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.comparison import compare
    from dqlab.benchmarking.history import read

    worse = compare(read(args.files, args.uri, args.machine))
    return 1 if worse and args.fail else 0


def _bench_report(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.history import read
    from dqlab.benchmarking.report import write_reports

    print(*write_reports(read(args.files, args.uri, args.machine), args.out), sep="\n")
    return 0


def _bench_send(args: argparse.Namespace) -> int:
    from dqlab.benchmarking.store import send, the_uri
    from dqlab.printing import masked

    for path in args.files:
        send(path, the_uri(args.uri))
        print(f"{path}: MLflow ({masked(the_uri(args.uri))}) has all of it.")
    return 0


def _fidelity(args: argparse.Namespace) -> int:
    from dqlab.fidelity.command import make
    from dqlab.plugins import load_plugins

    load_plugins(args.plugin)
    make(args.out, args.robot, args.run, args.episodes, print)
    print(args.out)
    return 0


def add_figures(parser: argparse.ArgumentParser) -> None:
    """Options of what reads benchmark figures."""
    text = "written by pytest --benchmark-json or --mlflow; MLflow's figures if none is named"
    parser.add_argument("files", nargs="*", type=expanded, metavar="FILE.json", help=text)
    add_uri(parser)
    parser.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")
