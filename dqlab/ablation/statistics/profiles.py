"""Performance profiles: which share of a setting's runs score above a threshold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.statistics.analysis import Band, Estimate, Profiles
from dqlab.ablation.statistics.estimates import estimate
from dqlab.ablation.statistics.matrices import Of
from dqlab.ablation.statistics.metrics import mean
from dqlab.ablation.statistics.resampling import Array, Bootstrap

THRESHOLDS = 51

Pattern = tuple[tuple[int, ...], bytes]
"""Which runs are above a threshold; neighbouring thresholds mostly share theirs, and with it the interval."""


def profiles_of(scores: Mapping[Of, Array], rules: tuple[str, ...], bootstrap: Bootstrap) -> dict[str, Profiles]:
    """Rule -> the profiles of all settings at the same thresholds, as rliable computes them.

    Args:
        scores: (seeds, tasks).
    """
    thresholds = {rule: _thresholds([item for of, item in scores.items() if of.rule == rule]) for rule in rules}
    above = {of: [(item > limit).astype(float) for limit in thresholds[of.rule]] for of, item in scores.items()}
    patterns = {_pattern(runs): runs for rows in above.values() for runs in rows}
    shares = {pattern: estimate(interval) for pattern, interval in bootstrap.of_each(patterns, mean).items()}
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
