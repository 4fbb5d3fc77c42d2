"""A grid's progress in MLflow: a curve of finished cells over seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dqlab.tracking.memory import Memory
from dqlab.tracking.runs import log


def draw(client: Any, grid: Memory, finished: Iterable[tuple[float, str]]) -> None:
    """A point for each cell that is new, in the order of their ends.

    Args:
        client: MLflow's.
        grid: what is remembered of the grid's run.
        finished: when, in seconds, and which.
    """
    from mlflow.entities import Metric

    known, points = grid.state["finished"], []
    for at, name in sorted(item for item in finished if item[1] not in known):
        known[name] = len(known) + 1
        points.append(Metric("finished_cells", known[name], int(at * 1000), int(max(0.0, at - grid.state["began"]))))
    if points:
        log(client, grid.state["run"], points, {}, {})
        grid.save()
