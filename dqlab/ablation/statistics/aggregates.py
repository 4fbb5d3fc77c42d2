"""The four aggregates of every setting: one bootstrap gives all of their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.statistics.analysis import Aggregates
from dqlab.ablation.statistics.estimates import estimate
from dqlab.ablation.statistics.matrices import Of
from dqlab.ablation.statistics.metrics import iqm, mean, median, optimality_gap
from dqlab.ablation.statistics.resampling import Array, Bootstrap

METRICS = (iqm, mean, median, optimality_gap)


def aggregates_of(scores: Mapping[Of, Array], bootstrap: Bootstrap) -> dict[Of, Aggregates]:
    """IQM, mean, median and optimality gap with their intervals, of scores (seeds, tasks)."""
    intervals = bootstrap.of_each(scores, lambda drawn: np.stack([metric(drawn) for metric in METRICS]))
    return {of: Aggregates(*(estimate(interval, place) for place in range(4))) for of, interval in intervals.items()}
