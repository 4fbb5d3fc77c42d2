"""Benchmarks over time, kept in pytest-benchmark's files and sent to MLflow; which of them got worse.

python benchmarks/history.py compare [FILE.json ...] [--machine KIND] [--fail]
python benchmarks/history.py send FILE.json [--uri URI]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch

from dqlab import __version__
from dqlab.errors import DqlabError, masked, message_of, one_line, printable
from dqlab.tracking.mlflow.client import (
    LONGEST_TAG,
    LONGEST_VALUE,
    PARENT,
    all_runs,
    experiment_id,
    log_all,
    mirror_environment,
    mlflow_client,
    tracking_uri,
)

FOLDER = Path("runs") / "benchmarks"
"""pytest-benchmark's storage, below the folder in which pytest was started; MLflow's local store is beside it."""
EXPERIMENT = "benchmarks"
TOLERANCE = 0.10
"""A ratio may fall by this much below the best before it is called worse: machines are noisy."""
SHOWN = 10
SEND = "python benchmarks/history.py send"
NO_VERSION = "none"
FIGURES = (
    "ratio",
    "baseline_seconds",
    "work",
    "per_second",
    "flops",
    "flops_per_second",
    "peak",
    "peak_share",
    "threads",
    "memory_ratio",
)
"""What is measured besides pytest-benchmark's statistics; no parameter has one of these names."""


class BenchmarkError(DqlabError):
    """Benchmark figures are missing, unreadable, or cannot be recorded."""


def machine_kind() -> str:
    """CPU model, cores, and GPU if there is one: the same on like machines, whatever they are called."""
    return ", ".join(filter(None, (_cpu(), f"{os.cpu_count()} cores", _gpu())))


def machine_facts() -> dict[str, Any]:
    """Kind, CPU, GPU (empty if none), cores, and versions of this machine and this process."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "dqlab": __version__,
        "cuda": torch.version.cuda or NO_VERSION,
    }
    about = {"kind": machine_kind(), "cpu": _cpu(), "gpu": _gpu(), "cores": os.cpu_count()}
    return {**about, "versions": {name: str(version) for name, version in versions.items()}}


def _cpu() -> str:
    """The CPU's model where Linux tells, else what Python knows of it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def read_benchmarks(files: Sequence[Path], machine: str) -> pd.DataFrame:
    """Benchmarks from pytest-benchmark's files, those of its storage where none is named; the newest last.

    Args:
        files: written by `pytest benchmarks/` with `--benchmark-json` or `--mlflow`.
        machine: `this` kind, `all`, or the name of one.

    Returns:
        A row for each measurement: name, parameters, machine, when, commit, versions, and the figures.

    Raises:
        BenchmarkError: nothing to be read, or nothing of that machine.
    """
    files = files or sorted(FOLDER.glob("*/*.json"))
    if not files:
        raise BenchmarkError(f"There are no benchmarks in {FOLDER} yet. Record some: pytest benchmarks/ --mlflow")
    found = pd.DataFrame([row for file in files for row in _rows(read_session(file))])
    found = found.sort_values("when", kind="stable")
    for figure in FIGURES:
        found[figure] = found[figure] if figure in found else float("nan")
    if machine == "all":
        return found
    wanted = machine_kind() if machine == "this" else machine
    if wanted not in set(found["machine"]):
        known = "; ".join(sorted(set(found["machine"])))
        raise BenchmarkError(f"No benchmarks of this kind of machine: {wanted}. Known: {known} (--machine all).")
    return found[found["machine"] == wanted]


def read_session(path: Path) -> dict[str, Any]:
    """pytest-benchmark's JSON of a session of benchmarks/.

    Raises:
        BenchmarkError: there is no such file, or it is something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(document, dict) or not document.get("benchmarks") or "dqlab" not in document:
        raise BenchmarkError(
            f"{path} holds no benchmarks of dqlab. Write it with: pytest benchmarks/ --benchmark-json={path}"
        )
    return document


def _rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    tags = _session_tags(document)
    commit, _, changes = tags["git_commit"].partition("+")
    versions = document["dqlab"]["machine"]["versions"]
    session = {
        "machine": tags["machine"],
        "when": datetime.fromisoformat(tags["when"]).astimezone(timezone.utc),
        "commit": (commit[:9] + ("+" if changes else "")) or "-",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version != NO_VERSION),
    }
    for item in document["benchmarks"]:
        name, parameters, figures = item["fullname"], _parameters(item), _figures(item)
        told = sorted((key, str(value)) for key, value in parameters.items())
        yield {
            **figures,
            **session,
            "name": name,
            "part": str(parameters.get("part", "other")),
            "parameters": parameters,
            "identity": f"{name} {told} {figures.get('threads')}",
        }


def _session_tags(document: Mapping[str, Any]) -> dict[str, str]:
    """What all benchmarks of a session share, as it is noted in MLflow."""
    machine, commit = document["dqlab"]["machine"], document.get("commit_info", {})
    when = datetime.fromisoformat(document["datetime"])
    known = commit.get("id", "unknown") not in ("unversioned", "unknown")
    return {
        "session": document["dqlab"]["session"],
        "machine": machine["kind"],
        "when": (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).isoformat(),
        **{name: str(machine[name]) for name in ("cpu", "gpu", "cores")},
        **{f"version.{name}": version for name, version in machine["versions"].items()},
        "git_commit": commit["id"] + ("+changes" if commit.get("dirty") else "") if known else "",
    }


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item["extra_info"].items() if name not in FIGURES}


def _figures(item: Mapping[str, Any]) -> dict[str, float]:
    """Every number that came out; pytest-benchmark has some texts and lists among them."""
    everything = {**item["stats"], **{name: item["extra_info"].get(name) for name in FIGURES}}
    return {name: float(value) for name, value in everything.items() if isinstance(value, (int, float))}


def compare_benchmarks(found: pd.DataFrame) -> int:
    """Print each benchmark's history, on each kind of machine; returns how many got worse.

    A benchmark that changed its parameters or its threads is another one. Ratios to a baseline measured in alternation
    are compared, the latest with the best before it, not times: a busy machine slows both.
    """
    worse = total = 0
    for machine, of_machine in found.groupby("machine", sort=False):
        print(f"\n{machine}")
        for _, history in of_machine.sort_values(["part", "name"], kind="stable").groupby("identity", sort=False):
            best, latest = history["ratio"].iloc[:-1].max(), history.iloc[-1]
            loss = 1 - latest["ratio"] / best
            total, worse = total + 1, worse + (loss > TOLERANCE)
            verdict = f"  WORSE: {loss:.0%} below the best, {format_times(best)}" if loss > TOLERANCE else ""
            print("\n" + f"{latest['name']}  {format_parameters(latest['parameters'])}".rstrip())
            print("\n".join(_history_lines(history)) + verdict)
    print(f"\n{worse} of {total} benchmarks got worse by more than {TOLERANCE:.0%}.")
    return worse


def _history_lines(history: pd.DataFrame) -> list[str]:
    rows = [
        [f"{row['when'].to_pydatetime().astimezone():%Y-%m-%d %H:%M}", row["commit"], *figure_cells(row)[1:3]]
        for _, row in history.tail(SHOWN).iterrows()
    ]
    hidden = [f"  ({len(history) - SHOWN} earlier)"] if len(history) > SHOWN else []
    return [*hidden, *(f"  {line}" for line in align_columns(rows))]


def figure_cells(row: pd.Series[Any]) -> list[str]:
    """The figures of a measurement as text, in the order of `HEADINGS`."""
    return benchmark_cells(row["median"], row.dropna().to_dict())


def uri_or_default(uri: str | None) -> str:
    """The URI that is named, or $MLFLOW_TRACKING_URI, or runs/mlflow.db in the current folder."""
    return uri or tracking_uri(FOLDER)


def send_benchmarks(path: Path, uri: str) -> None:
    """Send a session's JSON; a session that MLflow has already is left as it is.

    Raises:
        BenchmarkError: the file holds no benchmarks, or MLflow could not take them.
    """
    document = read_session(path)
    os.environ.update(mirror_environment())
    try:
        _send(document, path, uri)
    except Exception as error:  # whatever the client raises; the file is still there
        raise BenchmarkError(
            f"MLflow ({masked(uri)}) could not take the figures: {one_line(error, 200)}. They are in {path}; later: "
            f"{SEND} {path}"
        ) from error


def _send(document: Mapping[str, Any], path: Path, uri: str) -> None:
    """A run for the session, which is finished last, and one below it for each benchmark."""
    client, tags = mlflow_client(uri), _session_tags(document)
    experiment = experiment_id(client, EXPERIMENT, FOLDER, uri)
    began = datetime.fromisoformat(tags["when"]).timestamp()
    known = all_runs(client, [experiment], f"tags.session = '{tags['session']}'")
    if any(run.info.status == "FINISHED" and PARENT not in run.data.tags for run in known):
        return
    for run in known:  # what was begun only
        client.delete_run(run.info.run_id)
    parent = client.create_run(experiment, int(began * 1000), tags, path.stem).info.run_id
    for item in document["benchmarks"]:
        parameters = {name: _as_text(value) for name, value in _parameters(item).items()}
        figures = _figures(item)
        threads = {"threads": f"{figures['threads']:.0f}"} if "threads" in figures else {}
        own = {**parameters, **threads, **tags, "benchmark": item["fullname"], PARENT: parent}
        own = {name: str(value)[:LONGEST_TAG] for name, value in own.items()}
        run = client.create_run(experiment, int(began * 1000), own, item["fullname"]).info.run_id
        log_all(client, run, [{"step": 0, "time": began, "metrics": figures}], parameters, {})
        client.log_dict(run, {**document, "benchmarks": [item]}, "benchmark.json")
        client.set_terminated(run)
    client.log_artifact(parent, str(path))
    client.set_terminated(parent)


def _as_text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:LONGEST_VALUE]


NONE = "-"
TIMES = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"), (0.0, " ns"))
COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, ""))
SMALLEST = {" ns": 1e-9}


def format_digits(value: float) -> str:
    """Three significant digits, never in exponential form."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:.{max(decimals, 0)}f}"


def _scaled(value: float | None, scales: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return NONE
    factor, unit = next(scale for scale in scales if value >= scale[0] * 0.9995)
    return format_digits(value / (factor or SMALLEST.get(unit, 1.0))) + unit


def format_seconds(value: float | None) -> str:
    """A duration, e.g. 12.3 ms."""
    return _scaled(value, TIMES)


def format_count(value: float | None) -> str:
    """A number or a rate, e.g. 123 or 45.6 k."""
    return _scaled(value, COUNTS)


def format_times(ratio: float | None) -> str:
    """How many times faster, e.g. 1.52x."""
    return NONE if ratio is None else f"{format_digits(ratio)}x"


def format_share(part: float | None) -> str:
    """A part of a whole, e.g. 12.3%."""
    return NONE if part is None else f"{100 * part:.1f}%"


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line, e.g. batch=256, mode=eager."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def benchmark_cells(median: float | None, figures: Mapping[str, float]) -> list[str]:
    """The columns of every table of benchmarks, without the name: see `HEADINGS`."""
    return [
        format_share(figures.get("peak_share")),
        format_times(figures.get("ratio")),
        format_seconds(median),
        format_count(figures.get("per_second")),
    ]


HEADINGS = ("of peak", "ratio", "median", "per second")


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def main() -> int:
    """The command line; returns the exit code (2: a mistake that the user can mend, told in one line)."""
    parser = argparse.ArgumentParser(description="Compare or send what `pytest benchmarks/` measured.")
    commands = parser.add_subparsers(dest="command", required=True)
    text = "written by pytest --benchmark-json or --mlflow; those in runs/benchmarks if none is named"
    compare = commands.add_parser("compare", help="each benchmark's history, and which got worse")
    compare.add_argument("files", nargs="*", type=Path, metavar="FILE.json", help=text)
    compare.add_argument("--machine", default="this", help="this kind of machine (default), all, or the name of a kind")
    compare.add_argument("--fail", action="store_true", help="exit with 1 if any got worse")
    send = commands.add_parser("send", help="send to MLflow what could not be sent after the benchmarks")
    send.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="written by pytest --mlflow")
    send.add_argument("--uri", help="MLflow's; $MLFLOW_TRACKING_URI, or runs/mlflow.db, by default")
    args = parser.parse_args()
    try:
        if args.command == "compare":
            return int(compare_benchmarks(read_benchmarks(args.files, args.machine)) > 0 and args.fail)
        for path in args.files:
            send_benchmarks(path, uri_or_default(args.uri))
            print(f"{path}: MLflow ({masked(uri_or_default(args.uri))}) has all of it.")
    except DqlabError as error:
        print(f"history.py: error: {printable(masked(message_of(error)))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
