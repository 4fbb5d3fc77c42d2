"""A replica's metrics.jsonl as MLflow's metrics."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from dqlab.files import read_bytes
from dqlab.records import JournalRecord, damaged, parse_journal

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def new_records(path: Path, known: int) -> list[JournalRecord]:
    """The journal's records after the first `known`; a line that is still being written is left for later.

    Raises:
        RunError: it is damaged.
    """
    try:
        return parse_journal(read_bytes(path).split(b"\n")[known:-1]) if path.exists() else []
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def metrics_of(records: Iterable[JournalRecord]) -> list[Any]:
    """MLflow's metrics, each with the record's own time: sent a second time, they are the same and stored once."""
    from mlflow.entities import Metric

    return [
        Metric(name, value, int(record["time"] * 1000), record["step"])
        for record in records
        for name, value in record["metrics"].items()
    ]
