"""Scores of a grid as matrices, seeds x tasks, made of the cells that have finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import Matrix
from dqlab.ablation.statistics.resampling import Array

Runs = Mapping[str, Mapping[str, Mapping[int, float]]]
"""label -> task -> seed -> score, every label and task present, in the grid's order."""


@dataclass(frozen=True)
class Of:
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


def matrices_of(runs: Mapping[str, Runs]) -> dict[Of, Matrix]:
    """Every label's matrix by every rule."""
    return {Of(rule, label): matrix_of(tasks) for rule, labels in runs.items() for label, tasks in labels.items()}


def complete(matrices: Mapping[Of, Matrix]) -> dict[Of, Array]:
    """The scores (seeds, tasks) of those that have a complete seed."""
    return {of: np.array(matrix.scores) for of, matrix in matrices.items() if matrix.seeds}


def shared(one: Matrix, other: Matrix) -> tuple[Array, Array]:
    """Both sides' scores (seeds, tasks) of the seeds that are complete in both; without rows where there is none."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    return rows_of(one, seeds), rows_of(other, seeds)


def rows_of(matrix: Matrix, seeds: list[int]) -> Array:
    """The scores (seeds, tasks) of some of its seeds."""
    return np.array([matrix.scores[matrix.seeds.index(seed)] for seed in seeds])
