"""Sample efficiency: scores at the evaluations in the course of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from dqlab.ablation.results import GridResults, Result
from dqlab.ablation.statistics.analysis import Curve
from dqlab.ablation.statistics.estimates import band
from dqlab.ablation.statistics.matrices import complete_seeds
from dqlab.ablation.statistics.metrics import iqm, mean
from dqlab.ablation.statistics.resampling import Array, Bootstrap

Run = Mapping[int, float]
"""Step -> score."""
Trained = Mapping[str, Mapping[str, Mapping[int, Run]]]
"""label -> task -> seed -> run."""


def curves(results: GridResults, bootstrap: Bootstrap) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
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


def _renamed(curve: Curve) -> Curve:
    return Curve(curve.label, "", curve.steps, curve.seeds, curve.mean, curve.iqm)


def _trained(results: GridResults) -> Trained:
    found: dict[str, dict[str, dict[int, Run]]] = {
        label: {task: {} for task in results.tasks} for label in results.labels
    }
    for result in sorted(results.results, key=lambda result: result.cell.seed):
        found[result.cell.label][result.cell.task][result.cell.seed] = _run(result)
    return found


def _run(result: Result) -> Run:
    """Its finite scores, the untrained policy's among them."""
    untrained = result.summary.get("untrained")
    rows = [*([untrained] if untrained else []), *result.summary["evaluations"]]
    return {row["step"]: row["score_mean"] for row in rows if math.isfinite(row["score_mean"])}


def _complete(tasks: Mapping[str, Mapping[int, Run]]) -> list[list[Run]]:
    return [[runs[seed] for runs in tasks.values()] for seed in complete_seeds(tasks)]


def _curves(groups: Mapping[tuple[str, str], list[list[Run]]], bootstrap: Bootstrap) -> tuple[Curve, ...]:
    """Of runs by seed and task; groups without runs or without a common step have none."""
    steps = {key: _common_steps(run for row in runs for run in row) for key, runs in groups.items()}
    scores = {key: _scores(runs, steps[key]) for key, runs in groups.items() if steps[key]}
    intervals = bootstrap.of_each(scores, lambda drawn: np.stack([mean(drawn), iqm(drawn)]))
    return tuple(
        Curve(*key, steps[key], len(groups[key]), band(interval, 0), band(interval, 1))
        for key, interval in intervals.items()
    )


def _common_steps(runs: Iterable[Run]) -> tuple[int, ...]:
    every = [set(run) for run in runs]
    return tuple(sorted(set.intersection(*every))) if every else ()


def _scores(runs: list[list[Run]], steps: tuple[int, ...]) -> Array:
    """(seeds, tasks, steps)."""
    return np.array([[[run[step] for step in steps] for run in row] for row in runs])
