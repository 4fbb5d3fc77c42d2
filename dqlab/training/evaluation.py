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
        backend: a name from the `env_backend` registry.
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
        """Evaluate every replica as it is after `step` updates, eagerly by default; the same call, the same episodes.

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
        seeds = [each for seed in pack.seeds for each in initial_seeds(seed, step, self.episodes)]
        # of each replica one: the official code evaluates in one environment, made for the occasion
        groups = [each for seed in pack.seeds for each in initial_seeds(seed, step, 1, 1) * self.episodes]
        states = self.environments.reset(seeds, groups)
        if self._core is None or self._core[0] is not pack or self._core[1] is not mode:
            self._core = (pack, mode, SamplerCore(pack, self.episodes, mode))  # compiled or captured once
        core, (mean, std) = self._core[2], map(np.asarray, self.standardised_by)
        noise = core.noise_stream(f"evaluation {step}")

        def act(states: NDArray[Any], turn: int) -> NDArray[Any]:
            seen = (states - mean) / std if len(mean) else states
            state = torch.from_numpy(seen).view(pack.replicas, self.episodes, -1)
            actions = core.sample_actions(state, noise.at(turn)).double().cpu().numpy()
            return np.asarray(actions.reshape(len(states), -1))

        under_way = _EpisodesUnderWay(self, states, seeds, rows)
        returns, lengths = (np.split(each, pack.replicas) for each in under_way.run(act))
        pairs = zip(returns, lengths, strict=True)
        return [EvaluationEpisodes(*pair, *under_way.faults.get(row, ())) for row, pair in enumerate(pairs)]

    @cached_property
    def environments(self) -> Environments:
        """What is stepped, made once."""
        return self._make(self.task, self.physics)

    def close(self) -> None:
        """Free what is stepped, if anything was: an environment that draws cannot do so by itself once Python ends."""
        if "environments" in vars(self):
            self.environments.close()


class _EpisodesUnderWay:
    """Episodes of K replicas under way, E each, from these seeds, in states (K * E, S); replicas of `rows` act.

    One whose numbers are not finite is left out; by row, `faults` says why, and whether its policy has diverged.
    """

    def __init__(self, evaluator: Evaluator, states: NDArray[Any], seeds: Sequence[int], rows: Collection[int]) -> None:
        self._evaluator, self._states, self._seeds = evaluator, states, seeds
        self._replica = np.arange(len(states)) // evaluator.episodes
        self._live = np.flatnonzero(np.isin(self._replica, list(rows)))
        self._time = 0
        self.faults: dict[int, tuple[str, bool]] = {}

    def run(self, act: Callable[[NDArray[Any], int], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns and lengths (K * E,) of all episodes, with `act(states, turn)` (K * E, A), a chunk's side by side."""
        evaluator, states = self._evaluator, self._states
        returns, lengths = np.zeros(len(states)), np.zeros(len(states), dtype=np.int64)
        self._leave_out(self._live, ~np.isfinite(states).all(axis=1), "a NaN or infinite first observation")
        while len(self._live):
            if evaluator.stop.is_set():
                raise StoppedError("stopped in an evaluation")
            actions = act(states, self._time // evaluator.chunk)
            self._leave_out(self._live, ~np.isfinite(actions).all(axis=1), "NaN or infinite actions", diverged=True)
            for action in np.split(actions, evaluator.chunk, axis=1):
                if not len(live := self._live):
                    break
                stepped = evaluator.environments.step(live.tolist(), action[live])
                states[live] = stepped.state
                returns[live] += stepped.reward
                lengths[live] += 1
                self._time += 1
                self._live = live[~stepped.over]
                self._leave_out(live, ~np.isfinite(states).all(axis=1), "a NaN or infinite observation")
                self._leave_out(live, ~np.isfinite(returns), "a NaN or infinite reward")
        return returns, lengths

    def _leave_out(self, among: NDArray[np.int64], bad: NDArray[np.bool_], what: str, diverged: bool = False) -> None:
        """Leave out the replicas that have a bad episode among those (n,)."""
        for episode in among[bad[among]].tolist():
            whose = "its policy" if diverged else f"the environment '{self._evaluator.task.environment}'"
            when = f"at step {self._time} of the episode with seed {self._seeds[episode]}"
            self.faults.setdefault(int(self._replica[episode]), (f"{whose} gives {what}, {when}.", diverged))
        self._live = self._live[~np.isin(self._replica[self._live], list(self.faults))]


def initial_seeds(seed: int, step: int, episodes: int, *stream: int) -> list[int]:
    """Environment seeds of an evaluation's episodes, by the run's seed + 100, as in the official code, and the step."""
    return list(map(int, np.random.SeedSequence([seed + 100, step, *stream]).generate_state(episodes)))
