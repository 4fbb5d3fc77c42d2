"""Local MLflow stores for tests: making the tables takes seconds, a copy of them does not. And what a store has."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.tracking.mlflow.client import mlflow_client

Points = Counter[tuple[str, int, float]]
"""Metric, step and value of every record, and how often."""


def fresh_store(folder: Path, name: str = "mlflow.db") -> str:
    """The URI of a store with nothing in it, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_tables(), folder / name)
    return f"sqlite:///{folder / name}"


@cache
def _tables() -> Path:
    path = Path(tempfile.mkdtemp(prefix="mlflow-tables-")) / "empty.db"
    mlflow_client(f"sqlite:///{path}").search_experiments()
    return path


def answers(address: str) -> bool:
    """Whether a server does."""
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"{address}/health", timeout=1))
    return False


def history(client: Any, run: Any) -> Points:
    """All metrics that MLflow has of a run."""
    points = (m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name))
    return Counter((m.key, m.step, m.value) for m in points)


def journal(replica: Path) -> Points:
    """What MLflow must have of a finished replica: every record and every rule's score, once."""
    records = [json.loads(line) for line in (replica / "metrics.jsonl").read_text().splitlines()]
    points = Counter((name, r["step"], value) for r in records for name, value in r["metrics"].items())
    selection = json.loads((replica / "summary.json").read_text())["selection"]
    return points + Counter((f"score/{rule}", row["step"] or 0, row["score_mean"]) for rule, row in selection.items())
