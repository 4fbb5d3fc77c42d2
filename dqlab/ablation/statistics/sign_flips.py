"""The sign-flip test of paired differences, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dqlab.ablation.statistics.resampling import SEED, Array

Key = TypeVar("Key")

MOST_COUNTED = 16  # pairs; with more, flips are sampled
SAMPLED = 99_999
AT_ONCE = 2**22  # sums at a time
ROUNDING = 1e-9  # of the mean absolute difference: sums that equal but for rounding are ties


@dataclass(frozen=True)
class Flips:
    """A test's outcome: p, the least p that so many pairs allow, and whether all flips were counted."""

    p: float
    smallest_p: float
    exact: bool


def sign_flip_tests(differences: Mapping[Key, Array]) -> dict[Key, Flips]:
    """Two-sided sign-flip tests of the mean of each item's paired differences.

    If it does not matter which of a pair is the setting and which the base, every difference is as likely with the
    other sign. p is the share of all sign patterns whose mean is as far from 0 as the observed one, or farther: exact
    up to 16 pairs; beyond that of 99,999 random patterns and the observed one.

    Args:
        differences: key -> (seeds, tasks).
    """
    found: dict[Key, Flips] = {}
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


def _tests(differences: Array) -> list[Flips]:
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
    return [Flips(float(count + given) / (patterns + given), smallest, exact) for count in as_far]


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
