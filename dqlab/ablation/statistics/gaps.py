"""What it is worth to choose each run's checkpoint by its score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.statistics.analysis import CheckpointGap, Matrix
from dqlab.ablation.statistics.estimates import estimate
from dqlab.ablation.statistics.matrices import Of, shared
from dqlab.ablation.statistics.metrics import mean
from dqlab.ablation.statistics.resampling import Bootstrap


def checkpoint_gaps(
    matrices: Mapping[Of, Matrix], labels: tuple[str, ...], bootstrap: Bootstrap
) -> tuple[CheckpointGap, ...]:
    """Best-online minus last, and minus offline, of the same runs: of every label with a complete seed."""
    scores = {}
    for label in labels:
        best = matrices[Of("best_online", label)]
        differences = [np.subtract(*shared(best, matrices[Of(rule, label)])) for rule in ("last", "offline")]
        if all(len(rows) for rows in differences):
            scores[label] = differences
    found = [bootstrap.of_each({label: both[place] for label, both in scores.items()}, mean) for place in (0, 1)]
    return tuple(
        CheckpointGap(label, both[0].size, estimate(found[0][label]), estimate(found[1][label]))
        for label, both in scores.items()
    )
