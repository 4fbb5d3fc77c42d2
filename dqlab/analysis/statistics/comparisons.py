"""Every setting against the base: probability of improvement, paired differences, tests and what they allow to say.

Settings and base share their seeds, and a run of either with the same task and seed starts from the same data order,
episodes and noise. So differences are taken pair by pair, and their bootstrap draws pairs, for every task by itself:
what a seed does to both sides cancels. rliable's probability of improvement compares every run with every other one
and resamples both sides independently; it is what others report, and the verdict does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dqlab.analysis.statistics.analysis import Comparison, Comparisons, Matrix, estimate_at
from dqlab.analysis.statistics.bootstrap import SEED, Array, Bootstrap, Interval, interquartile_mean, mean_score
from dqlab.analysis.statistics.tables import ScoreKey, shared_scores

Key = TypeVar("Key")
MOST_COUNTED = 16  # pairs; with more, flips are sampled
SAMPLED = 99_999
AT_ONCE = 2**22  # sums at a time
ROUNDING = 1e-9  # of the mean absolute difference: sums that equal but for rounding are ties


@dataclass(frozen=True)
class SignFlipTest:
    """A test's outcome: p, the least p that so many pairs allow, and whether all flips were counted."""

    p: float
    smallest_p: float
    exact: bool


def sign_flip_tests(differences: Mapping[Key, Array]) -> dict[Key, SignFlipTest]:
    """Two-sided sign-flip tests of the mean of each item's paired differences.

    If it does not matter which of a pair is the setting and which the base, every difference is as likely with the
    other sign. p is the share of all sign patterns whose mean is as far from 0 as the observed one, or farther: exact
    up to 16 pairs; beyond that of 99,999 random patterns and the observed one.

    Args:
        differences: key -> (seeds, tasks).
    """
    found: dict[Key, SignFlipTest] = {}
    flat = {key: item.ravel() for key, item in differences.items()}
    for pairs in dict.fromkeys(map(len, flat.values())):
        keys = [key for key, item in flat.items() if len(item) == pairs]
        tests = _tests(np.stack([flat[key] for key in keys], axis=-1))
        found |= dict(zip(keys, tests, strict=True))
    return {key: found[key] for key in differences}


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values: the i-th smallest of m times (m - i), i from 0; never falling, at most 1.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(p) for p in corrected]


def _tests(differences: Array) -> list[SignFlipTest]:
    """Of differences (pairs, columns)."""
    pairs, columns = differences.shape
    exact = pairs <= MOST_COUNTED
    observed = np.abs(differences.sum(axis=0)) - ROUNDING * np.abs(differences).sum(axis=0)
    as_far, patterns = np.zeros(columns), 0
    for signs in (_all_signs if exact else _some_signs)(pairs, max(1, AT_ONCE // columns)):
        as_far += (np.abs(signs @ differences) >= observed).sum(axis=0)
        patterns += len(signs)
    given = 0 if exact else 1
    smallest = 2.0 / 2.0**pairs if exact else max(2.0 / 2.0**pairs, 1.0 / (patterns + 1))
    return [SignFlipTest(float(count + given) / (patterns + given), smallest, exact) for count in as_far]


def _all_signs(pairs: int, most: int) -> Iterator[Array]:
    """Every pattern but for an overall sign, which changes no absolute sum."""
    for numbers in _portions(2 ** (pairs - 1), most):
        yield _signs(np.array(numbers)[:, None] >> np.arange(pairs) & 1)


def _some_signs(pairs: int, most: int) -> Iterator[Array]:
    generator = np.random.default_rng(SEED)
    for numbers in _portions(SAMPLED, most):
        yield _signs(generator.integers(0, 2, (len(numbers), pairs)))


def _portions(count: int, most: int) -> Iterator[range]:
    return (range(start, min(start + most, count)) for start in range(0, count, most))


def _signs(bits: NDArray[np.int64]) -> Array:
    return (1 - 2 * bits).astype(np.float64)


ENOUGH = 10
"""Seeds below which nothing is called better or worse: docs/statistics.md has the simulation."""
Pairs = Mapping[ScoreKey, tuple[Array, Array]]


def compare_with_base(
    matrices: Mapping[ScoreKey, Matrix], base: str, rules: tuple[str, ...], bootstrap: Bootstrap
) -> dict[str, Comparisons]:
    """Rule -> the settings that share complete seeds with the base, each rule's corrected for their number."""
    pairs = _pairs(matrices, base)
    probabilities = bootstrap.of_pairs({of: win_matrix(*both) for of, both in pairs.items()})
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


def win_matrix(ours: Array, others: Array) -> Array:
    """1 where our run (first axis) has the higher score than theirs (second axis) on a task (third), 1/2 for a tie."""
    return 0.5 + 0.5 * np.sign(ours[:, None] - others[None])


def _pairs(matrices: Mapping[ScoreKey, Matrix], base: str) -> dict[ScoreKey, tuple[Array, Array]]:
    both = {
        of: shared_scores(matrix, matrices[ScoreKey(of.rule, base)])
        for of, matrix in matrices.items()
        if of.label != base
    }
    return {of: pair for of, pair in both.items() if len(pair[0])}


def _differences(both: Array) -> Array:
    """Of (seeds, tasks, 2, columns): IQM and mean of the first minus those of the second."""
    values = np.stack([interquartile_mean(both), mean_score(both)])
    difference: Array = values[:, 0] - values[:, 1]
    return difference


def _comparison(
    of: ScoreKey,
    both: tuple[Array, Array],
    probability: Interval,
    differences: Interval,
    test: SignFlipTest,
    corrected: float,
    level: float,
) -> Comparison:
    ours, base = both
    direction = "better" if mean_score(ours) > mean_score(base) else "worse"
    decided = corrected <= level and len(ours) >= ENOUGH
    return Comparison(
        of.label,
        len(ours),
        estimate_at(probability),
        estimate_at(differences, 0),
        estimate_at(differences, 1),
        test.p,
        corrected,
        test.smallest_p,
        test.exact,
        direction if decided else "undecided",
    )
