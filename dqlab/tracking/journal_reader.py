"""A replica's metrics.jsonl as MLflow's metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def new_records(path: Path, known: int) -> list[dict[str, Any]]:
    """The journal's records after the first `known`; a line that is still being written is left for later."""
    lines = path.read_text().splitlines(keepends=True)[known:] if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def metrics_of(records: Iterable[dict[str, Any]]) -> list[Any]:
    """MLflow's metrics, each with the record's own time: sent a second time, they are the same and stored once."""
    from mlflow.entities import Metric

    return [
        Metric(name, value, int(record["time"] * 1000), record["step"])
        for record in records
        for name, value in record["metrics"].items()
    ]
