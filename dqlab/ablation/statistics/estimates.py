"""Intervals as the figures of an analysis."""

from __future__ import annotations

from typing import Any

from dqlab.ablation.statistics.analysis import Band, Estimate
from dqlab.ablation.statistics.resampling import Interval


def estimate(interval: Interval, *place: int) -> Estimate:
    """The figure at a place of an interval's arrays."""
    low, high = (None if bound is None else float(bound[place]) for bound in (interval.low, interval.high))
    return Estimate(float(interval.point[place]), low, high)


def band(interval: Interval, *place: int) -> Band:
    """The row at a place of an interval's arrays."""
    return Band(*(_numbers(row, place) for row in (interval.point, interval.low, interval.high)))


def _numbers(row: Any, place: tuple[int, ...]) -> tuple[float, ...]:
    return () if row is None else tuple(row[place].tolist())
