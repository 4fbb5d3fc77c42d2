"""An evaluation's first episodes, noted so that they can be played again before a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dqlab.envs.backend import Array, Environments, Stepped


@dataclass
class Take:
    """An episode: what determines it, and what came of it.

    Attributes:
        seed, group: as in `Environments.reset`.
        actions: one (A,) a step.
        total: undiscounted return.
    """

    seed: int
    group: int
    actions: list[Array] = field(default_factory=list)
    total: float = 0.0


class Recording(Environments):
    """Other environments, whose first episodes are noted.

    Args:
        played: the environments.
        episodes: how many are noted.

    Attributes:
        takes: of the latest reset.
    """

    def __init__(self, played: Environments, episodes: int) -> None:
        self._played, self._episodes = played, episodes
        self.takes: list[Take] = []

    def prepare(self, count: int) -> None:
        """As in `Environments`."""
        self._played.prepare(count)

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        """As in `Environments`; earlier takes are forgotten."""
        self.takes = [Take(*pair) for pair in zip(seeds, groups, strict=True)][: self._episodes]
        return self._played.reset(seeds, groups)

    def step(self, which: Sequence[int], actions: Array) -> Stepped:
        """As in `Environments`."""
        stepped = self._played.step(which, actions)
        for number, action, reward in zip(which, actions, stepped.reward, strict=True):
            if number < len(self.takes):
                self.takes[number].actions.append(action.copy())
                self.takes[number].total += float(reward)
        return stepped

    def close(self) -> None:
        """As in `Environments`."""
        self._played.close()
