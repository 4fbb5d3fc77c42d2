"""`dqlab bench`: benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dqlab.cli.options import add_group, add_subcommand, add_uri
from dqlab.files import expanded

EXAMPLES = """
dqlab bench compare
dqlab bench report --out docs/benchmarks
"""
COMPARE_EXAMPLES = """
dqlab bench compare
dqlab bench compare before.json after.json --fail
"""
REPORT_EXAMPLES = """
dqlab bench report --out docs/benchmarks
"""
SEND_EXAMPLES = """
dqlab bench send runs/benchmarks/latest.json --uri http://127.0.0.1:5000
"""


def add_bench(commands: Any) -> None:
    """`dqlab bench`."""
    text = "Compare, report or send what `pytest benchmarks/` measured."
    group = add_group(commands, "bench", text, EXAMPLES)
    compare = add_subcommand(
        group, "compare", _bench_compare, "Show each benchmark's history, and say which got worse.", COMPARE_EXAMPLES
    )
    _add_figures(compare)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    report = add_subcommand(
        group, "report", _bench_report, "Write the latest figures as Markdown tables.", REPORT_EXAMPLES
    )
    _add_figures(report)
    report.add_argument(
        "--out", type=expanded, default=Path("runs/benchmarks/report"), help="folder; runs/benchmarks/report by default"
    )
    send = add_subcommand(
        group, "send", _bench_send, "Send to MLflow what could not be sent after the benchmarks.", SEND_EXAMPLES
    )
    send.add_argument("files", nargs="+", type=expanded, metavar="FILE.json", help="written by pytest --mlflow")
    add_uri(send)


def _bench_compare(args: argparse.Namespace) -> int:
    from dqlab.tools.benchmarks import compare_benchmarks, read_benchmarks

    worse = compare_benchmarks(read_benchmarks(args.files, args.machine))
    return 1 if worse and args.fail else 0


def _bench_report(args: argparse.Namespace) -> int:
    from dqlab.tools.benchmarks import read_benchmarks, write_benchmark_report

    print(f"Wrote {write_benchmark_report(read_benchmarks(args.files, args.machine), args.out)}")
    return 0


def _bench_send(args: argparse.Namespace) -> int:
    from dqlab.errors import masked
    from dqlab.tools.benchmarks import send_benchmarks, uri_or_default

    for path in args.files:
        send_benchmarks(path, uri_or_default(args.uri))
        print(f"{path}: MLflow ({masked(uri_or_default(args.uri))}) has all of it.")
    return 0


def _add_figures(parser: argparse.ArgumentParser) -> None:
    """Options of what reads benchmark figures."""
    text = "written by pytest --benchmark-json or --mlflow; those in runs/benchmarks if none is named"
    parser.add_argument("files", nargs="*", type=expanded, metavar="FILE.json", help=text)
    parser.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")
