"""Evaluation: all episodes of all replicas step together, one batched sampler call a step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dqlab.envs import env_backends
from dqlab.envs.backend import Environments
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError, StoppedError
from dqlab.training.execution.modes import Eager, ExecutionMode
from dqlab.training.model_selection import EvaluationEpisodes
from dqlab.training.pack import Pack
from dqlab.training.programs import SamplerCore


class Evaluator:
    """Rolls out the replicas of a pack.

    Args:
        task: whose environment; `physics` as in `make_env`.
        episodes: E, of each replica.
        backend: what steps the environments, a name from the `env_backend` registry.
        chunk: h, actions that a policy chooses at once; they are played one after the other.

    Attributes:
        standardised_by: mean and deviation of the states (S,) that the policies were trained on; empty for none.
        stop: when it is set, an evaluation ends after the step under way.
    """

    def __init__(self, task: Task, physics: str, episodes: int, backend: str = "gymnasium", chunk: int = 1) -> None:
        if not isinstance(episodes, (int, np.integer)) or episodes < 1:
            raise ConfigError(f"An evaluation needs at least 1 episode, not {episodes!r}.")
        self.task, self.physics, self.episodes, self.chunk = task, physics, episodes, chunk
        self.standardised_by: tuple[Sequence[float], Sequence[float]] = ((), ())
        self._make = env_backends.get(backend)
        self.stop = Event()
        self._eager = Eager()
        self._core: tuple[Pack, ExecutionMode, SamplerCore] | None = None

    def run(self, pack: Pack, step: int, mode: ExecutionMode | None = None) -> list[EvaluationEpisodes]:
        """Evaluate every replica as it is after `step` updates; the same call gives the same episodes.

        The sampler is executed operation by operation, unless a mode is given.

        Raises:
            RunError: a policy gives actions that are not finite, or an environment observations or rewards.
            EnvError: an environment raises an error, or gives what its spaces do not allow.
            StoppedError: it was asked to stop.
        """
        episodes = self.roll_out(pack, step, mode or self._eager, range(pack.replicas))
        for seed, of_replica in zip(pack.seeds, episodes, strict=True):
            if of_replica.fault:
                raise RunError(f"The evaluation of seed {seed} after {step:,} updates failed: {of_replica.fault}")
        return episodes

    def roll_out(self, pack: Pack, step: int, mode: ExecutionMode, rows: Collection[int]) -> list[EvaluationEpisodes]:
        """Evaluate the replicas of some rows; what is given for others means nothing. Raises as `run` does, but that
        numbers that are not finite are a fault of the replica's own episodes.
        """
        seeds, groups = (
            [number for replica in pack.seeds for number in numbers(replica, step, self.episodes)]
            for numbers in (initial_seeds, group_seeds)
        )
        states = self.environments.reset(seeds, groups)
        rolling = _EpisodesUnderWay(self, states, seeds, rows)
        if self._core is None or self._core[0] is not pack or self._core[1] is not mode:
            self._core = (pack, mode, SamplerCore(pack, self.episodes, mode))  # compiled or captured once
        returns, lengths = rolling.run(self._actor(self._core[2], step))
        pairs = zip(np.split(returns, pack.replicas), np.split(lengths, pack.replicas), strict=True)
        return [EvaluationEpisodes(*pair, *rolling.faults.get(row, ())) for row, pair in enumerate(pairs)]

    @cached_property
    def environments(self) -> Environments:
        """What is stepped, made once."""
        return self._make(self.task, self.physics)

    def close(self) -> None:
        """Free what is stepped, if anything was: an environment that draws cannot do so by itself once Python ends."""
        if "environments" in vars(self):
            self.environments.close()

    def _actor(self, core: SamplerCore, step: int) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        """States (K * E, S) and how often it was asked before -> actions (K * E, A), those of a chunk side by side."""
        pack, noise = core.pack, core.noise_stream(f"evaluation {step}")

        mean, std = (np.asarray(values) for values in self.standardised_by)

        def act(states: NDArray[Any], turn: int) -> NDArray[Any]:
            seen = (states - mean) / std if len(mean) else states
            state = torch.from_numpy(seen).view(pack.replicas, self.episodes, -1)
            actions = core.sample_actions(state, noise.at(turn)).double().cpu().numpy()
            return np.asarray(actions.reshape(len(states), -1))

        return act


class _EpisodesUnderWay:
    """Episodes of K replicas under way, E each; a replica whose numbers are not finite is left out from then on.

    They have begun in the evaluator's environments, from these seeds, in states (K * E, S); replicas of `rows` act.
    `faults` says of replicas that were left out, by row, why, and whether their policy has diverged.
    """

    def __init__(self, evaluator: Evaluator, states: NDArray[Any], seeds: Sequence[int], rows: Collection[int]) -> None:
        self._evaluator, self._states, self._seeds = evaluator, states, seeds
        self._replica = np.arange(len(states)) // evaluator.episodes
        self._live = np.flatnonzero(np.isin(self._replica, list(rows)))
        self._time = 0
        self.faults: dict[int, tuple[str, bool]] = {}

    def run(self, act: Callable[[NDArray[Any], int], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns (K * E,) and lengths (K * E,) of all episodes."""
        returns, lengths = np.zeros(len(self._states)), np.zeros(len(self._states), dtype=np.int64)
        self._leave_out(~np.isfinite(self._states).all(axis=1), "a NaN or infinite first observation")
        chunk = self._evaluator.chunk
        while len(self._live):
            if self._evaluator.stop.is_set():
                raise StoppedError("stopped in an evaluation")
            actions = act(self._states, self._time // chunk)
            self._leave_out(~np.isfinite(actions).all(axis=1), "NaN or infinite actions", diverged=True)
            for action in np.split(actions, chunk, axis=1):
                if len(self._live):
                    self._step(action, returns, lengths)
        return returns, lengths

    def _step(self, action: NDArray[Any], returns: NDArray[Any], lengths: NDArray[Any]) -> None:
        """One step of the live episodes, with actions (K * E, A) for all; returns and lengths grow."""
        live = self._live
        stepped = self._evaluator.environments.step(live.tolist(), action[live])
        self._states[live] = stepped.state
        returns[live] += stepped.reward
        lengths[live] += 1
        self._time += 1
        self._live = live[~stepped.over]
        self._leave_out(~np.isfinite(self._states).all(axis=1), "a NaN or infinite observation", live)
        self._leave_out(~np.isfinite(returns), "a NaN or infinite reward", live)

    def _leave_out(
        self, bad: NDArray[np.bool_], what: str, among: NDArray[np.int64] | None = None, diverged: bool = False
    ) -> None:
        """Leave out the replicas that have a bad episode among those (n,), by default all that are still live."""
        among = self._live if among is None else among
        if not bad[among].any():
            return
        for episode in among[bad[among]].tolist():
            whose = "its policy" if diverged else f"the environment '{self._evaluator.task.environment}'"
            when = f"at step {self._time} of the episode with seed {self._seeds[episode]}"
            self.faults.setdefault(int(self._replica[episode]), (f"{whose} gives {what}, {when}.", diverged))
        self._live = self._live[~np.isin(self._replica[self._live], list(self.faults))]


EVAL_SEED_OFFSET = 100
"""The official code seeds its evaluation environment with the run's seed + 100."""


def initial_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """Environment seeds of an evaluation's episodes: a function of the run's seed + 100 and the training step."""
    sequence = np.random.SeedSequence([seed + EVAL_SEED_OFFSET, step])
    return [int(value) for value in sequence.generate_state(episodes)]


def group_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """What an evaluation's episodes share: the official code evaluates in one environment, made for the occasion."""
    return [int(np.random.SeedSequence([seed + EVAL_SEED_OFFSET, step, 1]).generate_state(1)[0])] * episodes
