"""`dqlab bench`: benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_command, add_parser, add_uri
from dqlab.files import expanded

EXAMPLES = """
dqlab bench compare
dqlab bench report --out docs/benchmarks
"""


def add_bench(commands: Any) -> None:
    """`dqlab bench`."""
    text = "Compare, report or send what `pytest benchmarks/` measured."
    doors = add_parser(commands, "bench", text, EXAMPLES).add_subparsers(required=True, metavar="COMMAND")
    compare = add_command(doors, "compare", _bench_compare, "Show each benchmark's history, and say which got worse.")
    add_figures(compare)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    report = add_command(doors, "report", _bench_report, "Write the latest figures as a Markdown table and plots.")
    add_figures(report)
    report.add_argument(
        "--out", type=expanded, default=Path("runs/benchmarks/report"), help="folder; runs/benchmarks/report by default"
    )
    send = add_command(doors, "send", _bench_send, "Send to MLflow what could not be sent after the benchmarks.")
    send.add_argument("files", nargs="+", type=expanded, metavar="FILE.json")
    add_uri(send)


def _bench_compare(args: argparse.Namespace) -> int:
    from dqlab.tools.benchmarking.history import compare_histories, read_histories

    worse = compare_histories(read_histories(args.files, args.uri, args.machine))
    return 1 if worse and args.fail else 0


def _bench_report(args: argparse.Namespace) -> int:
    from dqlab.tools.benchmarking.history import read_histories
    from dqlab.tools.benchmarking.report import write_reports

    print(*write_reports(read_histories(args.files, args.uri, args.machine), args.out), sep="\n")
    return 0


def _bench_send(args: argparse.Namespace) -> int:
    from dqlab.errors import masked
    from dqlab.tools.benchmarking.history import send_benchmarks, tracking_uri_or_default

    for path in args.files:
        send_benchmarks(path, tracking_uri_or_default(args.uri))
        print(f"{path}: MLflow ({masked(tracking_uri_or_default(args.uri))}) has all of it.")
    return 0


def add_figures(parser: argparse.ArgumentParser) -> None:
    """Options of what reads benchmark figures."""
    text = "written by pytest --benchmark-json or --mlflow; MLflow's figures if none is named"
    parser.add_argument("files", nargs="*", type=expanded, metavar="FILE.json", help=text)
    add_uri(parser)
    parser.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")
