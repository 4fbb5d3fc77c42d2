"""MLflow: `dqlab sync`: send what it lacks; `dqlab ui`: its pages; `dqlab bench`: benchmarks, which it keeps."""

from __future__ import annotations

import argparse
from os.path import expanduser
from pathlib import Path
from typing import Any

from dqlab.cli.parser import add_group, add_parser, add_uri
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


BENCH_EXAMPLES = """
dqlab bench compare
dqlab bench report --out docs/benchmarks
"""
COMPARE_EXAMPLES = """
dqlab bench compare
dqlab bench compare before.json after.json --fail
"""


def add_bench(commands: Any) -> None:
    """`dqlab bench`."""
    group = add_group(commands, "bench", "Compare, report or send what `pytest benchmarks/` measured.", BENCH_EXAMPLES)
    text = "Show each benchmark's history, and say which got worse."
    compare = add_parser(group, "compare", _bench_compare, text, COMPARE_EXAMPLES, help=text)
    _add_figures(compare)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    text, example = (
        "Write the latest figures as Markdown tables.",
        "dqlab bench report --out docs/benchmarks",
    )
    report = add_parser(group, "report", _bench_report, text, example, help=text)
    _add_figures(report)
    folder = Path("runs/benchmarks/report")
    report.add_argument("--out", type=expanded, default=folder, help=f"folder; {folder} by default")
    text = "Send to MLflow what could not be sent after the benchmarks."
    example = "dqlab bench send runs/benchmarks/latest.json --uri http://127.0.0.1:5000"
    send = add_parser(group, "send", _bench_send, text, example, help=text)
    send.add_argument("files", nargs="+", type=expanded, metavar="FILE.json", help="written by pytest --mlflow")
    add_uri(send)


def _add_figures(parser: argparse.ArgumentParser) -> None:
    """Options of what reads benchmark figures."""
    text = "written by pytest --benchmark-json or --mlflow; those in runs/benchmarks if none is named"
    parser.add_argument("files", nargs="*", type=expanded, metavar="FILE.json", help=text)
    parser.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")


def _bench_compare(args: argparse.Namespace) -> bool:
    from dqlab.tools.benchmarks import compare_benchmarks, read_benchmarks

    worse = compare_benchmarks(read_benchmarks(args.files, args.machine))
    return bool(worse and args.fail)


def _bench_report(args: argparse.Namespace) -> None:
    from dqlab.tools.benchmarks import read_benchmarks, write_benchmark_report

    print(f"Wrote {write_benchmark_report(read_benchmarks(args.files, args.machine), args.out)}")


def _bench_send(args: argparse.Namespace) -> None:
    from dqlab.errors import masked
    from dqlab.tools.benchmarks import send_benchmarks, uri_or_default

    for path in args.files:
        send_benchmarks(path, uri_or_default(args.uri))
        print(f"{path}: MLflow ({masked(uri_or_default(args.uri))}) has all of it.")
