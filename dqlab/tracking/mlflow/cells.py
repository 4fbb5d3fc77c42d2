"""One cell of a grid as an MLflow run: few parameters, its journal, its scores, how it ended."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqlab.config.replica import replicas_of
from dqlab.files import path_within, read_text
from dqlab.tracking.folders import run_facts
from dqlab.tracking.mlflow.client import NewRun, log_all, log_file, metrics_of, new_records, run_tags
from dqlab.tracking.records import FailureRecord, JournalRecord, SummaryRecord, parse_record, read_record

FRESH = {"records": 0, "bytes": -1, "shown": "", "status": ""}
"""What is remembered of a cell's run that has got nothing yet."""
ARTIFACTS = ("config.gin", "summary.json", "failure.json", "curve.png")
OWN = ("seed", "task", "cells")
LONGEST_LINE = 1 << 20
"""Bytes of a journal's first line above which it is not read for its time."""


def axis_parameter(axis: str) -> str:
    """An axis' name as MLflow takes it, and apart from the parameters that every cell has."""
    name = re.sub(r"[^\w.\- ]+", "_", axis).strip() or "_"
    return f"axis {name}" if name in OWN else name


def config_digest(text: str) -> str:
    """Digest of a gin text without seeds and labels: equal for the seeds of one configuration."""
    kept = re.sub(r"(?m)^Experiment\.(seeds|cell|replicas)\b.*\n(?:[ \t]+.*\n)*", "", text + "\n")
    statements = sorted(line for line in kept.splitlines() if line.strip() and not line.startswith("#"))
    return hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell in its pack.

    Attributes:
        path: the folder.
        facts: `seed`, `cell` (its label) and `points`, as the pack's run.json has them.
        task: the pack's.
        history: whether its journal is sent, not only how it ended.
    """

    path: Path
    facts: Mapping[str, Any]
    task: str
    history: bool = True

    @property
    def parameters(self) -> dict[str, str]:
        """Its place on each axis, its seed and its task: few, so that MLflow's comparisons can be read."""
        points = {axis_parameter(axis): str(text) for axis, text in self.facts["points"].items()}
        return {**points, "seed": str(self.facts["seed"]), "task": self.task}

    @property
    def label(self) -> str:
        """Label of the setting that it belongs to."""
        return str(self.facts["cell"])

    @property
    def journal(self) -> Path:
        """The file of its metrics."""
        return self.path / "metrics.jsonl"

    def ended(self) -> tuple[str, Path | None]:
        """MLflow's status and the file that says so; nothing while it may go on."""
        for name, status in (("failure.json", "FAILED"), ("summary.json", "FINISHED")):
            if (self.path / name).exists():
                return status, self.path / name
        return "", None

    @property
    def began(self) -> float:
        """When, in seconds; 0 where nothing shows it."""
        config = self.path / "config.gin"
        written = [config.stat().st_mtime] if config.exists() else []
        return min([*written, *self._first_time()], default=0.0)

    def _first_time(self) -> list[float]:
        """When its first record was written, if that can be read."""
        try:
            with self.journal.open("rb") as journal:
                return [parse_record(journal.readline(LONGEST_LINE), JournalRecord)["time"]]
        except (OSError, ValueError):
            return []

    def tags(self) -> dict[str, str]:
        """Its configuration's digest, once it is known."""
        config = self.path / "config.gin"
        return {"config_digest": config_digest(read_text(config))} if config.exists() else {}


def new_cell(cell: CellFolder, parent: str, common: Mapping[str, str]) -> NewRun:
    """The run of a cell, still to be made: below its parent, with tags that are common to several."""
    seed = str(cell.facts["seed"])
    tags = {**common, "kind": "cell", "cell": cell.label, "seed": seed, "task": cell.task}
    return NewRun(f"{cell.label} | {cell.task} | seed {seed}", parent, tags, cell.began)


def send_cell(client: Any, cell: CellFolder, state: dict[str, Any], over: bool) -> None:
    """Send what is new of a cell; `state` is what is remembered of it, and changed.

    Metrics carry the time at which they were recorded, so that MLflow keeps one of two that are sent twice.

    Raises:
        RunError: one of its files is damaged, or a link; nothing was sent.
    """
    status, file = cell.ended()
    status = status or ("KILLED" if over else "RUNNING")
    shown = f"{status} {file.stat().st_mtime_ns}" if file else status
    size = cell.journal.stat().st_size if cell.history and cell.journal.exists() else -1
    if shown == state["shown"] and size == state["bytes"]:
        return
    for name in (*ARTIFACTS, cell.journal.name):
        path_within(cell.path / name, cell.path.parent)
    records = new_records(cell.journal, state["records"]) if cell.history else []
    metrics = metrics_of(records)
    first = not state["shown"]
    tags = cell.tags() if first or file else {}
    if file and status == "FINISHED":
        metrics += _scores(file)
    if file and status == "FAILED":
        tags |= _failure(file)
    log_all(client, state["run"], metrics, cell.parameters if first else {}, tags)
    if file:
        _end(client, cell, state["run"], status, file)
    elif status != (state["status"] or "RUNNING"):
        _go_on(client, state, status)
    state |= {"records": state["records"] + len(records), "bytes": size, "shown": shown, "status": status}


def _scores(summary: Path) -> list[Any]:
    """The final score by every selection rule, at the step of the checkpoint that the rule chose."""
    from mlflow.entities import Metric

    selection = read_record(summary, SummaryRecord)["selection"]
    at = int(summary.stat().st_mtime * 1000)
    return [Metric(f"score/{rule}", row["score_mean"], at, row["step"] or 0) for rule, row in selection.items()]


def _failure(file: Path) -> dict[str, str]:
    failure = read_record(file, FailureRecord)
    return {"failure": f"{failure['kind']}: {failure['reason']}", "failure_step": str(failure.get("step"))}


def _end(client: Any, cell: CellFolder, run: str, status: str, file: Path) -> None:
    for name in ARTIFACTS:
        if (cell.path / name).exists():
            log_file(client, run, cell.path / name, cell.path.parent)
    client.set_terminated(run, status, int(file.stat().st_mtime * 1000))


def show_killed(client: Any, state: dict[str, Any]) -> None:
    """Nobody trains a cell any more of which nothing says how it ended."""
    if state["status"] != "KILLED":
        _go_on(client, state, "KILLED")
        state["status"] = "KILLED"


def _go_on(client: Any, state: Mapping[str, Any], status: str) -> None:
    """A cell that was shown as ended goes on, or one that goes on is shown as killed."""
    client.update_run(state["run"], status=status)
    if state["status"] == "FAILED":
        client.delete_tag(state["run"], "failure")
        client.delete_tag(state["run"], "failure_step")


@dataclass(frozen=True)
class PackFolder:
    """What run.json says of a pack.

    Attributes:
        path: the folder.
        title: its run's name.
        cells: by the names of their folders.
        tags: that its run and its cells' have in common.
        shared: parameters that all of its cells have in common.
    """

    path: Path
    title: str
    cells: Mapping[str, CellFolder]
    tags: Mapping[str, str]
    shared: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> PackFolder:
        """A folder's pack.

        Raises:
            RunError: it is no pack's folder, or damaged.
        """
        facts = run_facts(path)
        task, replicas = facts["task"], replicas_of(facts)
        cells = {each.name: CellFolder(path / each.name, each.as_dict(), task) for each in replicas}
        return cls(path, _title(path.name, cells), cells, run_tags(facts), _shared(cells))

    @property
    def began(self) -> float:
        """When its first cell began, in seconds; 0 where nothing shows it."""
        return min((cell.began for cell in self.cells.values() if cell.began), default=0.0)


def _title(name: str, cells: Mapping[str, CellFolder]) -> str:
    """Labels of its cells, as far as they are few."""
    labels = list(dict.fromkeys(cell.label for cell in cells.values()))
    return f"pack {name[:8]}: " + "; ".join(labels[:3]) + ("; ..." if len(labels) > 3 else "")


def _shared(cells: Mapping[str, CellFolder]) -> dict[str, str]:
    first, *others = (cell.parameters for cell in cells.values())
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
