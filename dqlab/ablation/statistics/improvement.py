"""Every setting against the base: probability of improvement, paired differences, tests and what they allow to say.

Settings and base share their seeds, and a run of either with the same task and seed starts from the same data order,
episodes and noise. So differences are taken pair by pair, and their bootstrap draws pairs, for every task by itself:
what a seed does to both sides cancels. rliable's probability of improvement compares every run with every other one
and resamples both sides independently; it is what others report, and the verdict does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dqlab.ablation.statistics.analysis import Comparison, Comparisons, Matrix
from dqlab.ablation.statistics.estimates import estimate
from dqlab.ablation.statistics.matrices import Of, shared
from dqlab.ablation.statistics.metrics import iqm, mean
from dqlab.ablation.statistics.resampling import Array, Bootstrap, Interval
from dqlab.ablation.statistics.sign_flips import Flips, holm, sign_flip_tests

ENOUGH = 10
"""Seeds below which nothing is called better or worse: docs/statistics.md has the simulation."""

Pairs = Mapping[Of, tuple[Array, Array]]


def compared(
    matrices: Mapping[Of, Matrix], base: str, rules: tuple[str, ...], bootstrap: Bootstrap
) -> dict[str, Comparisons]:
    """Rule -> the settings that share complete seeds with the base, each rule's corrected for their number."""
    pairs = _pairs(matrices, base)
    probabilities = bootstrap.of_pairs({of: wins(*both) for of, both in pairs.items()})
    differences = bootstrap.of_each({of: np.stack(both, axis=-1) for of, both in pairs.items()}, _differences)
    tests = sign_flip_tests({of: ours - base for of, (ours, base) in pairs.items()})
    found = {}
    for rule in rules:
        group = [of for of in pairs if of.rule == rule]
        corrected = holm([tests[of].p for of in group])
        rows = {
            of.label: _comparison(
                of, pairs[of], probabilities[of], differences[of], tests[of], p, 1 - bootstrap.confidence
            )
            for of, p in zip(group, corrected, strict=True)
        }
        found[rule] = Comparisons(base, rows, len(rows))
    return found


def wins(ours: Array, others: Array) -> Array:
    """1 where our run (first axis) has the higher score than theirs (second axis) on a task (third), 1/2 for a tie."""
    return 0.5 + 0.5 * np.sign(ours[:, None] - others[None])


def _pairs(matrices: Mapping[Of, Matrix], base: str) -> dict[Of, tuple[Array, Array]]:
    both = {of: shared(matrix, matrices[Of(of.rule, base)]) for of, matrix in matrices.items() if of.label != base}
    return {of: pair for of, pair in both.items() if len(pair[0])}


def _differences(both: Array) -> Array:
    """Of (seeds, tasks, 2, columns): IQM and mean of the first minus those of the second."""
    values = np.stack([iqm(both), mean(both)])
    difference: Array = values[:, 0] - values[:, 1]
    return difference


def _comparison(
    of: Of,
    both: tuple[Array, Array],
    probability: Interval,
    differences: Interval,
    test: Flips,
    corrected: float,
    level: float,
) -> Comparison:
    ours, base = both
    direction = "better" if mean(ours) > mean(base) else "worse"
    decided = corrected <= level and len(ours) >= ENOUGH
    return Comparison(
        of.label,
        len(ours),
        estimate(probability),
        estimate(differences, 0),
        estimate(differences, 1),
        test.p,
        corrected,
        test.smallest_p,
        test.exact,
        direction if decided else "undecided",
    )
