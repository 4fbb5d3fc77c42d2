"""A setting on a task: mean, spread, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import Estimate, TaskScores
from dqlab.ablation.statistics.estimates import estimate
from dqlab.ablation.statistics.matrices import Runs
from dqlab.ablation.statistics.metrics import mean
from dqlab.ablation.statistics.resampling import Bootstrap

Row = tuple[str, str, str]
"""Rule, label, task."""


def per_task(results: GridResults, runs: Mapping[str, Runs], bootstrap: Bootstrap) -> dict[str, tuple[TaskScores, ...]]:
    """Rule -> a row for every label and task, with the interval of the mean over seeds."""
    found: dict[Row, Mapping[int, float]] = {
        (rule, label, task): scores
        for rule, labels in runs.items()
        for label, tasks in labels.items()
        for task, scores in tasks.items()
    }
    columns = {row: np.array(list(scores.values()))[:, None] for row, scores in found.items() if scores}
    means = {row: estimate(interval) for row, interval in bootstrap.of_each(columns, mean).items()}
    failed = Counter((failure.cell.label, failure.cell.task) for failure in results.failures)
    pending = Counter((cell.label, cell.task) for cell in results.pending)
    return {
        rule: tuple(
            _row(row, scores, means.get(row), failed[row[1:]], pending[row[1:]])
            for row, scores in found.items()
            if row[0] == rule
        )
        for rule in runs
    }


def _row(row: Row, scores: Mapping[int, float], mean: Estimate | None, failed: int, pending: int) -> TaskScores:
    _, label, task = row
    values = tuple(scores.values())
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return TaskScores(
        label,
        task,
        tuple(scores),
        values,
        mean,
        std,
        None if std is None else std / math.sqrt(len(values)),
        min(values, default=None),
        max(values, default=None),
        failed,
        pending,
    )
