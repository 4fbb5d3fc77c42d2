"""Published scores beside ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.report_settings import Report
from dqlab.ablation.statistics.analysis import Estimate, ReferenceAverage, ReferenceRow, References, RuleAnalysis

AVERAGE = "average"
"""In place of a task: the published average over all tasks of the grid."""


def references_of(rules: Mapping[str, RuleAnalysis], settings: Report) -> References | None:
    """Published and own scores by the reference's selection rule; None without a reference."""
    if not settings.reference:
        return None
    own = rules[settings.reference_rule]
    ours = {(row.label, row.task): row.mean for row in own.per_task}
    if _tasks(settings) <= {row.task for row in own.per_task}:  # the average of fewer tasks is another figure
        ours |= {(label, AVERAGE): aggregates.mean for label, aggregates in own.aggregates.items()}
    found = tuple(
        _row(label, task, published, ours.get((label, task)))
        for label, tasks in settings.reference.items()
        for task, published in tasks.items()
    )
    averages = tuple(_average(label, [row for row in found if row.label == label]) for label in settings.reference)
    return References(settings.reference_rule, settings.reference_source, found, averages)


def _tasks(settings: Report) -> set[str]:
    """Tasks that published scores are given of."""
    return {task for scores in settings.reference.values() for task in scores} - {AVERAGE}


def _row(label: str, task: str, published: tuple[float, ...], ours: Estimate | None) -> ReferenceRow:
    score, error = float(published[0]), float(published[1]) if len(published) > 1 else None
    difference = None if ours is None else ours.point - score
    return ReferenceRow(label, task, ours, score, error, difference, _inside(score, ours))


def _inside(score: float, ours: Estimate | None) -> bool | None:
    if ours is None or ours.low is None or ours.high is None:
        return None
    return ours.low <= score <= ours.high


def _average(label: str, rows: list[ReferenceRow]) -> ReferenceAverage:
    both = [(row.task, row.ours.point, row.published) for row in rows if row.ours is not None and row.task != AVERAGE]
    if not both:
        return ReferenceAverage(label, (), None, None, None)
    ours, published = float(np.mean([row[1] for row in both])), float(np.mean([row[2] for row in both]))
    return ReferenceAverage(label, tuple(row[0] for row in both), ours, published, ours - published)
