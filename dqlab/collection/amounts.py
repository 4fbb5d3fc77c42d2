"""How much is collected, and how it is shared out among policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dqlab.errors import ConfigError, DataError

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Amount:
    """So many episodes, or so many transitions; neither for all that there is.

    Attributes:
        episodes: whole ones.
        transitions: rows; the last episode is cut where they are full.
    """

    episodes: int = 0
    transitions: int = 0

    @property
    def everything(self) -> bool:
        """Whether it is all that there is."""
        return not (self.episodes or self.transitions)

    def missing(self, lengths: Sequence[int]) -> bool:
        """Whether episodes of these lengths do not suffice."""
        return len(lengths) < self.episodes or sum(lengths) < self.transitions

    def shared(self, shares: Mapping[str, float]) -> dict[str, Amount]:
        """Parts by share, whole numbers that add up (largest remainders are rounded up)."""
        count = self.episodes or self.transitions
        exact = np.array(list(shares.values())) * count
        counts = np.floor(exact + TOLERANCE).astype(int)
        short = count - int(counts.sum())
        counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
        if count and not counts.all():
            raise ConfigError(
                f"{count} are too few for shares {dict(shares)}: one of them would be empty. Ask for more."
            )
        unit = "episodes" if self.episodes else "transitions"
        return {name: Amount(**{unit: int(part)}) for name, part in zip(shares, counts, strict=True)}

    def thinned(self, lengths: Sequence[int], what: str) -> list[int]:
        """Numbers of episodes, spread evenly over all of them, that suffice.

        Args:
            lengths: of all episodes there are.
            what: what they are, for the message.

        Raises:
            DataError: there are not so many.
        """
        if self.missing(lengths):
            raise DataError(
                f"{what} has {len(lengths):,} episodes with {sum(lengths):,} transitions, fewer than are asked for "
                f"({self.episodes or self.transitions:,}). Ask for fewer, or train for longer."
            )
        if self.everything:
            return list(range(len(lengths)))
        if self.episodes:
            return [number * len(lengths) // self.episodes for number in range(self.episodes)]
        return _spread(np.asarray(lengths), self.transitions)


def _spread(lengths: np.ndarray[tuple[int], np.dtype[np.int64]], wanted: int) -> list[int]:
    """Episodes taken whenever the rows taken fall behind their share of the rows passed."""
    taken, passed, chosen = 0, 0, []
    for number, length in enumerate(lengths.tolist()):
        passed += length
        if taken < wanted * passed / int(lengths.sum()):
            chosen.append(number)
            taken += length
    return chosen


def check_shares(mixture: Mapping[str, float]) -> None:
    """See that shares are positive and sum to 1.

    Raises:
        ConfigError: they do not.
    """
    values = list(mixture.values()) if isinstance(mixture, Mapping) else []
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not values or not numbers:
        raise ConfigError(f"Collection.mixture must be a dictionary policy -> share, not {mixture!r}.")
    if min(values) <= 0 or abs(sum(values) - 1) > TOLERANCE:
        raise ConfigError(
            f"Collection.mixture {dict(mixture)}: shares must be positive and sum to 1, these sum to {sum(values):g}."
        )
