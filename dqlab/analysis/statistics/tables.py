"""Scores of a grid as matrices, seeds x tasks, made of the cells that have finished."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dqlab.analysis.results import CellStatus, GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import (
    Aggregates,
    Band,
    CheckpointGap,
    Estimate,
    Matrix,
    Profiles,
    ReferenceAverage,
    ReferenceRow,
    References,
    RuleAnalysis,
    ScoreCurve,
    TaskScores,
    band_at,
    estimate_at,
)
from dqlab.analysis.statistics.bootstrap import (
    Array,
    Bootstrap,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
)

Runs = Mapping[str, Mapping[str, Mapping[int, float]]]
"""label -> task -> seed -> score, every label and task present, in the grid's order."""


@dataclass(frozen=True)
class ScoreKey:
    """Whose figures these are: a setting's, by a selection rule."""

    rule: str
    label: str


def runs_of(results: GridResults, rule: str) -> Runs:
    """The finite scores of the finished cells by a selection rule."""
    found: dict[str, dict[str, dict[int, float]]] = {
        label: {task: {} for task in results.tasks} for label in results.labels
    }
    for result in sorted(results.results, key=lambda result: result.cell.seed):
        score = result.score(rule)
        if math.isfinite(score):
            found[result.cell.label][result.cell.task][result.cell.seed] = score
    return found


def complete_seeds(tasks: Mapping[str, Mapping[int, object]]) -> tuple[int, ...]:
    """Seeds that every task has."""
    return tuple(sorted(set.intersection(*(set(seeds) for seeds in tasks.values()))))


def matrix_of(tasks: Mapping[str, Mapping[int, float]]) -> Matrix:
    """A setting's complete seeds and their scores."""
    seeds = complete_seeds(tasks)
    some = {seed for scores in tasks.values() for seed in scores}
    rows = tuple(tuple(scores[seed] for scores in tasks.values()) for seed in seeds)
    return Matrix(seeds, rows, tuple(sorted(some - set(seeds))))


def matrices_of(runs: Mapping[str, Runs]) -> dict[ScoreKey, Matrix]:
    """Every label's matrix by every rule."""
    return {ScoreKey(rule, label): matrix_of(tasks) for rule, labels in runs.items() for label, tasks in labels.items()}


def complete_scores(matrices: Mapping[ScoreKey, Matrix]) -> dict[ScoreKey, Array]:
    """The scores (seeds, tasks) of those that have a complete seed."""
    return {of: np.array(matrix.scores) for of, matrix in matrices.items() if matrix.seeds}


def shared_scores(one: Matrix, other: Matrix) -> tuple[Array, Array]:
    """Both sides' scores (seeds, tasks) of the seeds that are complete in both; without rows where there is none."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    return seed_rows(one, seeds), seed_rows(other, seeds)


def seed_rows(matrix: Matrix, seeds: list[int]) -> Array:
    """The scores (seeds, tasks) of some of its seeds."""
    return np.array([matrix.scores[matrix.seeds.index(seed)] for seed in seeds])


METRICS = (interquartile_mean, mean_score, median_score, optimality_gap)


def aggregates_of(scores: Mapping[ScoreKey, Array], bootstrap: Bootstrap) -> dict[ScoreKey, Aggregates]:
    """IQM, mean, median and optimality gap with their intervals, of scores (seeds, tasks)."""
    intervals = bootstrap.of_each(scores, lambda drawn: np.stack([metric(drawn) for metric in METRICS]))
    return {of: Aggregates(*(estimate_at(interval, place) for place in range(4))) for of, interval in intervals.items()}


Run = Mapping[int, float]
"""Step -> score."""
Trained = Mapping[str, Mapping[str, Mapping[int, Run]]]
"""label -> task -> seed -> run."""


def score_curves(results: GridResults, bootstrap: Bootstrap) -> tuple[tuple[ScoreCurve, ...], tuple[ScoreCurve, ...]]:
    """A curve a label and task, and a curve a label over all tasks.

    The one over all tasks is of the seeds that every task has; mean and IQM are over seeds and tasks together. With a
    single task both are the same.
    """
    trained = _trained(results)
    one_task = _curves(
        {
            (label, task): [[run] for run in runs.values()]
            for label, tasks in trained.items()
            for task, runs in tasks.items()
        },
        bootstrap,
    )
    if len(results.tasks) == 1:
        return one_task, tuple(_renamed(curve) for curve in one_task)
    return one_task, _curves({(label, ""): _complete(tasks) for label, tasks in trained.items()}, bootstrap)


def _renamed(curve: ScoreCurve) -> ScoreCurve:
    return ScoreCurve(curve.label, "", curve.steps, curve.seeds, curve.mean, curve.iqm)


def _trained(results: GridResults) -> Trained:
    found: dict[str, dict[str, dict[int, Run]]] = {
        label: {task: {} for task in results.tasks} for label in results.labels
    }
    for result in sorted(results.results, key=lambda result: result.cell.seed):
        found[result.cell.label][result.cell.task][result.cell.seed] = _run(result)
    return found


def _run(result: CellStatus) -> Run:
    """Its finite scores, the untrained policy's among them."""
    untrained = result.summary.get("untrained")
    rows = [*([untrained] if untrained else []), *result.summary["evaluations"]]
    return {row["step"]: row["score_mean"] for row in rows if math.isfinite(row["score_mean"])}


def _complete(tasks: Mapping[str, Mapping[int, Run]]) -> list[list[Run]]:
    return [[runs[seed] for runs in tasks.values()] for seed in complete_seeds(tasks)]


def _curves(groups: Mapping[tuple[str, str], list[list[Run]]], bootstrap: Bootstrap) -> tuple[ScoreCurve, ...]:
    """Of runs by seed and task; groups without runs or without a common step have none."""
    steps = {key: _common_steps(run for row in runs for run in row) for key, runs in groups.items()}
    scores = {key: _scores(runs, steps[key]) for key, runs in groups.items() if steps[key]}
    intervals = bootstrap.of_each(scores, lambda drawn: np.stack([mean_score(drawn), interquartile_mean(drawn)]))
    return tuple(
        ScoreCurve(*key, steps[key], len(groups[key]), band_at(interval, 0), band_at(interval, 1))
        for key, interval in intervals.items()
    )


def _common_steps(runs: Iterable[Run]) -> tuple[int, ...]:
    every = [set(run) for run in runs]
    return tuple(sorted(set.intersection(*every))) if every else ()


def _scores(runs: list[list[Run]], steps: tuple[int, ...]) -> Array:
    """(seeds, tasks, steps)."""
    return np.array([[[run[step] for step in steps] for run in row] for row in runs])


def checkpoint_gaps(
    matrices: Mapping[ScoreKey, Matrix], labels: tuple[str, ...], bootstrap: Bootstrap
) -> tuple[CheckpointGap, ...]:
    """Best-online minus last, and minus offline, of the same runs: of every label with a complete seed."""
    scores = {}
    for label in labels:
        best = matrices[ScoreKey("best_online", label)]
        differences = [
            np.subtract(*shared_scores(best, matrices[ScoreKey(rule, label)])) for rule in ("last", "offline")
        ]
        if all(len(rows) for rows in differences):
            scores[label] = differences
    found = [bootstrap.of_each({label: both[place] for label, both in scores.items()}, mean_score) for place in (0, 1)]
    return tuple(
        CheckpointGap(label, both[0].size, estimate_at(found[0][label]), estimate_at(found[1][label]))
        for label, both in scores.items()
    )


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
    means = {row: estimate_at(interval) for row, interval in bootstrap.of_each(columns, mean_score).items()}
    failed = Counter((status.cell.label, status.cell.task) for status in results.failures)
    pending = Counter((status.cell.label, status.cell.task) for status in results.pending)
    return {
        rule: tuple(
            _task_row(row, scores, means.get(row), failed[row[1:]], pending[row[1:]])
            for row, scores in found.items()
            if row[0] == rule
        )
        for rule in runs
    }


def _task_row(row: Row, scores: Mapping[int, float], mean: Estimate | None, failed: int, pending: int) -> TaskScores:
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


THRESHOLDS = 51
Pattern = tuple[tuple[int, ...], bytes]
"""Which runs are above a threshold; neighbouring thresholds mostly share theirs, and with it the interval."""


def profiles_of(scores: Mapping[ScoreKey, Array], rules: tuple[str, ...], bootstrap: Bootstrap) -> dict[str, Profiles]:
    """Rule -> the profiles of all settings at the same thresholds, as rliable computes them.

    Args:
        scores: (seeds, tasks).
    """
    thresholds = {rule: _thresholds([item for of, item in scores.items() if of.rule == rule]) for rule in rules}
    above = {of: [(item > limit).astype(float) for limit in thresholds[of.rule]] for of, item in scores.items()}
    patterns = {_pattern(runs): runs for rows in above.values() for runs in rows}
    shares = {pattern: estimate_at(interval) for pattern, interval in bootstrap.of_each(patterns, mean_score).items()}
    bands = {of: _band([shares[_pattern(runs)] for runs in rows]) for of, rows in above.items()}
    return {
        rule: Profiles(tuple(thresholds[rule].tolist()), {of.label: bands[of] for of in bands if of.rule == rule})
        for rule in rules
    }


def _pattern(above: Array) -> Pattern:
    return above.shape, above.tobytes()


def _band(shares: list[Estimate]) -> Band:
    low = tuple(share.low for share in shares if share.low is not None)
    high = tuple(share.high for share in shares if share.high is not None)
    return Band(tuple(share.point for share in shares), low, high)


def _thresholds(scores: list[Array]) -> Array:
    """Evenly from a point below the lowest score, where all runs are above, to the highest, where none is."""
    if not scores:
        return np.empty(0)
    every = np.concatenate([item.ravel() for item in scores])
    return np.linspace(np.ceil(every.min()) - 1.0, np.ceil(every.max()), THRESHOLDS)


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
        _reference_row(label, task, published, ours.get((label, task)))
        for label, tasks in settings.reference.items()
        for task, published in tasks.items()
    )
    averages = tuple(_average(label, [row for row in found if row.label == label]) for label in settings.reference)
    return References(settings.reference_rule, settings.reference_source, found, averages)


def _tasks(settings: Report) -> set[str]:
    """Tasks that published scores are given of."""
    return {task for scores in settings.reference.values() for task in scores} - {AVERAGE}


def _reference_row(label: str, task: str, published: tuple[float, ...], ours: Estimate | None) -> ReferenceRow:
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
