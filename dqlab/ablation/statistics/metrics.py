"""Aggregate metrics of runs and tasks, for many matrices at once: (runs, tasks, ...) -> (...).

Source: Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice; as rliable computes
them for one matrix.
"""

from __future__ import annotations

import numpy as np

from dqlab.ablation.statistics.resampling import Array

TRIMMED = 0.25
FULL_SCORE = 100.0


def mean(scores: Array) -> Array:
    """The mean over runs and tasks."""
    result: Array = scores.mean(axis=(0, 1))
    return result


def iqm(scores: Array) -> Array:
    """The interquartile mean: of the middle half of all runs on all tasks together."""
    runs = np.sort(scores.reshape(-1, *scores.shape[2:]), axis=0)
    cut = int(TRIMMED * len(runs))
    result: Array = runs[cut : len(runs) - cut].mean(axis=0)
    return result


def median(scores: Array) -> Array:
    """The median over tasks of the mean over runs."""
    result: Array = np.median(scores.mean(axis=0), axis=0)
    return result


def optimality_gap(scores: Array) -> Array:
    """By how much scores/100 stay below 1 on average; what is above 1 counts as 1."""
    return 1.0 - mean(np.minimum(scores / FULL_SCORE, 1.0))
