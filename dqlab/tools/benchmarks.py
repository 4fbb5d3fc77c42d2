"""`dqlab bench`: benchmarks over time, kept in pytest-benchmark's files and sent to MLflow; which of them got worse."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch

from dqlab import __version__
from dqlab.errors import BenchmarkError, masked, one_line
from dqlab.files import write_text
from dqlab.printing import markdown_table
from dqlab.runs import measuring
from dqlab.tracking.mlflow.client import (
    LONGEST_VALUE,
    PARENT,
    all_runs,
    create_run,
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
NONE = "none"
"""The version of what is not there."""
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
        "cuda": torch.version.cuda or NONE,
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
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version != NONE),
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
            verdict = f"  WORSE: {loss:.0%} below the best, {measuring.format_times(best)}" if loss > TOLERANCE else ""
            print("\n" + f"{latest['name']}  {measuring.format_parameters(latest['parameters'])}".rstrip())
            print("\n".join(_history_lines(history)) + verdict)
    print(f"\n{worse} of {total} benchmarks got worse by more than {TOLERANCE:.0%}.")
    return worse


def _history_lines(history: pd.DataFrame) -> list[str]:
    rows = [
        [f"{row['when'].to_pydatetime().astimezone():%Y-%m-%d %H:%M}", row["commit"], *figure_cells(row)[::2]]
        for _, row in history.tail(SHOWN).iterrows()
    ]
    hidden = [f"  ({len(history) - SHOWN} earlier)"] if len(history) > SHOWN else []
    return [*hidden, *(f"  {line}" for line in measuring.align_columns(rows))]


def figure_cells(row: pd.Series[Any]) -> list[str]:
    """The figures of a measurement as text, in the order of `measuring.HEADINGS`."""
    return measuring.benchmark_cells(row["median"], row.dropna().to_dict())


def write_benchmark_report(found: pd.DataFrame, folder: Path) -> Path:
    """Write the latest figures of each benchmark as `benchmarks.md`: kinds of machines, a table for each part."""
    lines = ["# Benchmarks"]
    for machine, rows in found.groupby(["machine", "identity"], sort=False).tail(1).groupby("machine", sort=False):
        lines += ["", f"## {machine}", "", *_session_lines(rows)]
        for part, members in rows.groupby("part"):
            lines += ["", f"### {str(part).capitalize()}", "", _table(members)]
    write_text(folder / "benchmarks.md", "\n".join(lines) + "\n")
    return folder / "benchmarks.md"


def _session_lines(rows: pd.DataFrame) -> list[str]:
    """Threads, versions, commit and date; where they differ, all of them."""
    threads = rows["threads"].map(lambda threads: "-" if pd.isna(threads) else f"{threads:.0f}")
    dates = rows["when"].dt.strftime("%Y-%m-%d")
    said = {"Threads": threads, "Versions": rows["versions"], "Commit": rows["commit"], "Date": dates}
    return [f"- {name}: {'; '.join(dict.fromkeys(values))}" for name, values in said.items()]


def _table(rows: pd.DataFrame) -> str:
    """A Markdown table: every parameter of this part a column, then the figures; numbers sorted as numbers."""
    conditions = pd.DataFrame(rows["parameters"].tolist(), rows.index, dtype=object)
    conditions = conditions.where(conditions.notna(), "").drop(columns="part", errors="ignore")
    if len(conditions.columns):
        conditions = conditions.sort_values(list(conditions), key=_sortable)
    cells = [
        [rows.at[index, "name"].rpartition("::")[2], *map(str, conditions.loc[index]), *figure_cells(rows.loc[index])]
        for index in conditions.index
    ]
    heads = ["benchmark", *conditions, *measuring.HEADINGS]
    return markdown_table(heads, cells, numbers=range(1, len(heads)))


def _sortable(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.map(lambda value: (1, 0.0, value) if isinstance(value, str) else (0, float(value), ""))


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
            f"dqlab bench send {path}"
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
    parent = create_run(client, experiment, path.stem, tags, began)
    for item in document["benchmarks"]:
        parameters = {name: _as_text(value) for name, value in _parameters(item).items()}
        figures = _figures(item)
        threads = {"threads": f"{figures['threads']:.0f}"} if "threads" in figures else {}
        own = {**parameters, **threads, **tags, "benchmark": item["fullname"], PARENT: parent}
        run = create_run(client, experiment, item["fullname"], own, began)
        log_all(client, run, _metrics(figures, began), parameters, {})
        client.log_dict(run, {**document, "benchmarks": [item]}, "benchmark.json")
        client.set_terminated(run)
    client.log_artifact(parent, str(path))
    client.set_terminated(parent)


def _metrics(figures: Mapping[str, float], when: float) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, int(when * 1000), 0) for name, value in figures.items()]


def _as_text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:LONGEST_VALUE]
