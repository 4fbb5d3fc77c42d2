"""Evaluation: all episodes of all replicas step together, one batched sampler call a step; D4RL scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqlab.envs.backend import Environments, env_backends
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError
from dqlab.training.execution import Eager, Mode
from dqlab.training.model_selection import Episodes
from dqlab.training.pack import Pack
from dqlab.training.sampler_core import SamplerCore

EVAL_SEED_OFFSET = 100
"""The official code seeds its evaluation environment with the run's seed + 100."""


def initial_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """Environment seeds of an evaluation's episodes: a function of the run's seed + 100 and the training step."""
    sequence = np.random.SeedSequence([seed + EVAL_SEED_OFFSET, step])
    return [int(value) for value in sequence.generate_state(episodes)]


def group_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """What an evaluation's episodes share: the official code evaluates in one environment, made for the occasion."""
    return [int(np.random.SeedSequence([seed + EVAL_SEED_OFFSET, step, 1]).generate_state(1)[0])] * episodes


class Evaluator:
    """Rolls out the replicas of a pack.

    Args:
        task: whose environment; `physics` as in `make_env`.
        episodes: E, of each replica.
        backend: what steps the environments, a name from the `env_backend` registry.

    Attributes:
        standardised_by: mean and deviation of the states (S,) that the policies were trained on; empty for none.
    """

    def __init__(self, task: Task, physics: str, episodes: int, backend: str = "gymnasium") -> None:
        if episodes < 1:
            raise ConfigError(f"An evaluation needs at least 1 episode, not {episodes}.")
        self.task, self.physics, self.episodes = task, physics, episodes
        self.standardised_by: tuple[Sequence[float], Sequence[float]] = ((), ())
        self._make = env_backends.get(backend)
        self._eager = Eager()
        self._core: tuple[Pack, Mode, SamplerCore] | None = None

    def run(self, pack: Pack, step: int, mode: Mode | None = None) -> list[Episodes]:
        """Evaluate every replica as it is after `step` updates; the same call gives the same episodes.

        Args:
            pack: the replicas.
            step: updates done; initial states and noise depend on it.
            mode: how the sampler is executed; operation by operation by default.

        Raises:
            RunError: a policy gives actions that are not finite.
        """
        episodes = self.roll_out(pack, step, mode or self._eager, range(pack.replicas))
        for seed, of_replica in zip(pack.seeds, episodes, strict=True):
            if of_replica.fault:
                raise RunError(f"The policy of seed {seed} gives {of_replica.fault}.")
        return episodes

    def roll_out(self, pack: Pack, step: int, mode: Mode, rows: Collection[int]) -> list[Episodes]:
        """The same for some replicas only; a policy that gives no finite actions is a fault of its own episodes.

        Args:
            pack, step, mode: as in `run`.
            rows: the replicas that act; what is given for others means nothing.
        """
        seeds, groups = (
            [number for replica in pack.seeds for number in numbers(replica, step, self.episodes)]
            for numbers in (initial_seeds, group_seeds)
        )
        states = self.environments.reset(seeds, groups)
        act = self._actor(self._core_of(pack, mode), step)
        returns, lengths, faulty = self._roll(states, act, rows)
        fault = f"NaN or infinite actions after {step} updates"
        pairs = zip(np.split(returns, pack.replicas), np.split(lengths, pack.replicas), strict=True)
        return [Episodes(*pair, fault if row in faulty else "") for row, pair in enumerate(pairs)]

    @cached_property
    def environments(self) -> Environments:
        """What is stepped, made once."""
        return self._make(self.task, self.physics)

    def _core_of(self, pack: Pack, mode: Mode) -> SamplerCore:
        """The sampler of this pack, kept from evaluation to evaluation: compiled or captured once."""
        if self._core is None or self._core[0] is not pack or self._core[1] is not mode:
            self._core = (pack, mode, SamplerCore(pack, self.episodes, mode))
        return self._core[2]

    def _actor(self, core: SamplerCore, step: int) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        """States (K * E, S) and time -> actions (K * E, A)."""
        pack, noise = core.pack, core.noise_stream(f"evaluation {step}")

        mean, std = (np.asarray(values) for values in self.standardised_by)

        def act(states: NDArray[Any], time: int) -> NDArray[Any]:
            seen = (states - mean) / std if len(mean) else states
            state = torch.from_numpy(seen).view(pack.replicas, self.episodes, -1)
            actions = core.sample_actions(state, noise.at(time)).double().cpu().numpy()
            return np.asarray(actions.reshape(len(states), -1))

        return act

    def _roll(
        self, states: NDArray[Any], act: Callable[..., NDArray[Any]], rows: Collection[int]
    ) -> tuple[NDArray[Any], NDArray[Any], set[int]]:
        """Returns and lengths (K * E,) of all episodes, and the rows whose actions were not finite."""
        returns, lengths = np.zeros(len(states)), np.zeros(len(states), dtype=np.int64)
        live = np.array([i for i in range(len(states)) if i // self.episodes in rows], dtype=np.int64)
        faulty: set[int] = set()
        time = 0
        while len(live):
            actions = act(states, time)
            bad = np.flatnonzero(~np.isfinite(actions).all(axis=1)) // self.episodes
            faulty |= set(bad.tolist()) & set((live // self.episodes).tolist())
            live = live[~np.isin(live // self.episodes, list(faulty))]
            if not len(live):
                break
            stepped = self.environments.step(live.tolist(), actions[live])
            states[live] = stepped.state
            returns[live] += stepped.reward
            lengths[live] += 1
            live, time = live[~stepped.over], time + 1
        return returns, lengths, faulty
