"""One cell of a grid as an MLflow run: few parameters, its journal, its scores, how it ended."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from dqlab.tracking.journal_reader import metrics_of, new_records
from dqlab.tracking.runs import log

FRESH = {"records": 0, "bytes": -1, "shown": "", "status": ""}
"""What is remembered of a cell's run that has got nothing yet."""
ARTIFACTS = ("config.gin", "summary.json", "failure.json", "curve.png")
OWN = ("seed", "task", "cells")


def parameter(axis: str) -> str:
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
    """The folder of one cell in its pack: `facts` is the cell's entry in run.json, `task` the pack's."""

    path: Path
    facts: Mapping[str, Any]
    task: str

    @property
    def parameters(self) -> dict[str, str]:
        """Its place on each axis, its seed and its task: few, so that MLflow's comparisons can be read."""
        points = {parameter(axis): str(text) for axis, text in self.facts["points"].items()}
        return {**points, "seed": str(self.facts["seed"]), "task": self.task}

    @property
    def label(self) -> str:
        """Of its setting."""
        return str(self.facts["cell"])

    @property
    def journal(self) -> Path:
        """Its metrics."""
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
        with self.journal.open() if self.journal.exists() else StringIO() as journal:
            first = journal.readline()
        return min([*written, *([json.loads(first)["time"]] if first.endswith("\n") else [])], default=0.0)

    def tags(self) -> dict[str, str]:
        """Its configuration's digest, once it is known."""
        config = self.path / "config.gin"
        return {"config_digest": config_digest(config.read_text())} if config.exists() else {}


def send_cell(client: Any, cell: CellFolder, state: dict[str, Any], over: bool) -> None:
    """Send what is new of a cell; `state` is what is remembered of it, and changed.

    Metrics carry the time at which they were recorded, so that MLflow keeps one of two that are sent twice.
    """
    status, file = cell.ended()
    status = status or ("KILLED" if over else "RUNNING")
    shown = f"{status} {file.stat().st_mtime_ns}" if file else status
    size = cell.journal.stat().st_size if cell.journal.exists() else -1
    if shown == state["shown"] and size == state["bytes"]:
        return
    records = new_records(cell.journal, state["records"])
    first = not state["shown"]
    metrics, tags = metrics_of(records), cell.tags() if first or file else {}
    if file and status == "FINISHED":
        metrics += _scores(file)
    if file and status == "FAILED":
        tags |= _failure(file)
    log(client, state["run"], metrics, cell.parameters if first else {}, tags)
    if file:
        _end(client, cell, state["run"], status, file)
    elif status != (state["status"] or "RUNNING"):
        _go_on(client, state, status)
    state |= {"records": state["records"] + len(records), "bytes": size, "shown": shown, "status": status}


def _scores(summary: Path) -> list[Any]:
    """The final score by every selection rule, at the step of the checkpoint that the rule chose."""
    from mlflow.entities import Metric

    selection = json.loads(summary.read_text())["selection"]
    at = int(summary.stat().st_mtime * 1000)
    return [Metric(f"score/{rule}", row["score_mean"], at, row["step"] or 0) for rule, row in selection.items()]


def _failure(file: Path) -> dict[str, str]:
    failure = json.loads(file.read_text())
    return {"failure": f"{failure['kind']}: {failure['reason']}", "failure_step": str(failure.get("step"))}


def _end(client: Any, cell: CellFolder, run: str, status: str, file: Path) -> None:
    for name in ARTIFACTS:
        if (cell.path / name).exists():
            client.log_artifact(run, str(cell.path / name))
    client.set_terminated(run, status, int(file.stat().st_mtime * 1000))


def _go_on(client: Any, state: dict[str, Any], status: str) -> None:
    """A cell that was shown as ended goes on, or one that goes on is shown as killed."""
    client.update_run(state["run"], status=status)
    if state["status"] == "FAILED":
        client.delete_tag(state["run"], "failure")
        client.delete_tag(state["run"], "failure_step")
