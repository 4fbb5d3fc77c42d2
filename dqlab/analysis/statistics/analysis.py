"""What the statistics of a grid say, as data. Scores are D4RL-normalised points unless a field says otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from dqlab.analysis.statistics.bootstrap import Interval


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval; `low` and `high` are None where one seed alone allows no interval."""

    point: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Band:
    """Estimates along an axis; `low` and `high` are empty where one seed alone allows no interval."""

    point: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """A setting's scores that aggregates are computed from.

    Attributes:
        seeds: those that every task has a score of; empty where there is none.
        scores: a row a seed, a column a task.
        left_out: seeds with scores of some tasks only; they count per task, not here.
    """

    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Aggregates:
    """Over all tasks and complete seeds of a setting; the optimality gap is of scores/100, 0 where all reach 100."""

    iqm: Estimate
    mean: Estimate
    median: Estimate
    optimality_gap: Estimate


@dataclass(frozen=True)
class TaskScores:
    """A setting on a task.

    Attributes:
        seeds, scores: of the runs with a score, in the order of seeds.
        mean: with the bootstrap interval over these seeds; None without a score.
        std: with n - 1; None below two scores, as is `standard_error`.
        failed, pending: cells without a score, for good or so far.
    """

    label: str
    task: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: Estimate | None
    std: float | None
    standard_error: float | None
    lowest: float | None
    highest: float | None
    failed: int
    pending: int


@dataclass(frozen=True)
class Comparison:
    """A setting against the base, over the seeds that are complete in both.

    Attributes:
        seeds: how many these are; the pairs of the test are seeds x tasks.
        probability: of improvement: that a run of the setting beats one of the base on a task drawn at random (0 to 1).
        iqm_difference, mean_difference: setting minus base, in points, bootstrapped in pairs.
        p: of the two-sided sign-flip test.
        corrected: p after the correction for the number of comparisons.
        smallest_p: the least p that so many pairs allow.
        exact: whether all sign flips were counted, not a sample of them.
        verdict: `better`, `worse` or `undecided`.
    """

    label: str
    seeds: int
    probability: Estimate
    iqm_difference: Estimate
    mean_difference: Estimate
    p: float
    corrected: float
    smallest_p: float
    exact: bool
    verdict: str


@dataclass(frozen=True)
class Comparisons:
    """Every setting that can be compared with the base, by label; `comparisons` is their number."""

    base: str
    rows: Mapping[str, Comparison]
    comparisons: int
    correction: str = "Holm"
    test: str = "two-sided sign-flip test of the mean difference over pairs of the same task and seed"


@dataclass(frozen=True)
class Profiles:
    """Performance profiles: the share of runs (0 to 1) whose score is above each threshold, by label."""

    thresholds: tuple[float, ...]
    shares: Mapping[str, Band]


@dataclass(frozen=True)
class RuleAnalysis:
    """All that depends on the rule by which a run's checkpoint is selected.

    Attributes:
        matrices: of every label.
        aggregates: of the labels with a complete seed.
        per_task: a row for every label and task, in the grid's order.
        comparisons: with the base.
        profiles: of the labels with a complete seed.
    """

    rule: str
    matrices: Mapping[str, Matrix]
    aggregates: Mapping[str, Aggregates]
    per_task: tuple[TaskScores, ...]
    comparisons: Comparisons
    profiles: Profiles


@dataclass(frozen=True)
class ScoreCurve:
    """Scores in the course of training, at the steps that all these seeds were evaluated at; 0 is before training.

    Attributes:
        task: its name; empty for the curve over all tasks.
        seeds: how many runs a task.
        mean, iqm: over the runs.
    """

    label: str
    task: str
    steps: tuple[int, ...]
    seeds: int
    mean: Band
    iqm: Band


@dataclass(frozen=True)
class CheckpointGap:
    """What choosing the best checkpoint by its score is worth: mean over a setting's cells, in points."""

    label: str
    cells: int
    over_last: Estimate
    over_offline: Estimate


@dataclass(frozen=True)
class ReferenceRow:
    """A published score beside ours.

    Attributes:
        ours: mean over seeds by the reference's rule; None where there is no run.
        error: the published standard error; None where none was published.
        difference: ours minus published.
        inside: whether the published score lies in our interval; None without an interval.
    """

    label: str
    task: str
    ours: Estimate | None
    published: float
    error: float | None
    difference: float | None
    inside: bool | None


@dataclass(frozen=True)
class ReferenceAverage:
    """Plain averages over the tasks that both have; None where there is no such task."""

    label: str
    tasks: tuple[str, ...]
    ours: float | None
    published: float | None
    difference: float | None


@dataclass(frozen=True)
class References:
    """Published scores, the rule they were selected by, and where they are from."""

    rule: str
    source: str
    rows: tuple[ReferenceRow, ...]
    averages: tuple[ReferenceAverage, ...]


@dataclass(frozen=True)
class Analysis:
    """The statistics of a grid as far as it has come.

    Attributes:
        rules: by the name of the selection rule; all four.
        curves: one a label and task, in the grid's order.
        total_curves: one a label, over all tasks.
        gaps: one a label with a complete seed.
        references: None where the report has none.
        cautions: plain sentences that must stand beside the figures.
        enough: seeds below which no setting is called better or worse.
        reps: bootstrap repetitions really used.
    """

    name: str
    base: str
    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    rules: Mapping[str, RuleAnalysis]
    curves: tuple[ScoreCurve, ...]
    total_curves: tuple[ScoreCurve, ...]
    gaps: tuple[CheckpointGap, ...]
    references: References | None
    cautions: tuple[str, ...]
    enough: int
    reps: int
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data: dicts, lists, plain numbers, None.

        Raises:
            ValueError: a number is not finite.
        """
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return _plain_number(value) if isinstance(value, float) else value


def _plain_number(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("A statistic is not finite.")
    return float(value)


def estimate_at(interval: Interval, *place: int) -> Estimate:
    """The figure at a place of an interval's arrays."""
    low, high = (None if bound is None else float(bound[place]) for bound in (interval.low, interval.high))
    return Estimate(float(interval.point[place]), low, high)


def band_at(interval: Interval, *place: int) -> Band:
    """The row at a place of an interval's arrays."""
    return Band(*(_numbers(row, place) for row in (interval.point, interval.low, interval.high)))


def _numbers(row: Any, place: tuple[int, ...]) -> tuple[float, ...]:
    return () if row is None else tuple(row[place].tolist())
