"""Performance profiles: which share of a setting's runs score above a threshold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.statistics.analysis import Profiles
from dqlab.ablation.statistics.estimates import band
from dqlab.ablation.statistics.matrices import Of
from dqlab.ablation.statistics.metrics import mean
from dqlab.ablation.statistics.resampling import Array, Bootstrap, Interval

THRESHOLDS = 51


def profiles_of(
    scores: Mapping[Of, Array], rules: tuple[str, ...], bootstrap: Bootstrap, banded: bool
) -> dict[str, Profiles]:
    """Rule -> the profiles of all settings at the same thresholds, as rliable computes them.

    Args:
        scores: (seeds, tasks).
        banded: with intervals; without, they cost nothing.
    """
    thresholds = {rule: _thresholds([item for of, item in scores.items() if of.rule == rule]) for rule in rules}
    above = {of: (item[..., None] > thresholds[of.rule]).astype(float) for of, item in scores.items()}
    if banded:
        bands = {of: band(interval) for of, interval in bootstrap.of_each(above, mean).items()}
    else:
        bands = {of: band(Interval(mean(item))) for of, item in above.items()}
    return {
        rule: Profiles(tuple(thresholds[rule].tolist()), {of.label: bands[of] for of in bands if of.rule == rule})
        for rule in rules
    }


def _thresholds(scores: list[Array]) -> Array:
    """From below the lowest score to the highest, at whole points of score."""
    if not scores:
        return np.empty(0)
    every = np.concatenate([item.ravel() for item in scores])
    return np.linspace(np.ceil(every.min()) - 1.0, np.ceil(every.max()), THRESHOLDS)
