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
from dqlab.envs.backend import Environments, StepResult
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
        on_reset, on_step: told of first states (n, S); of episodes' numbers, their actions (m, A) and what they led to.
    """

    def __init__(self, task: Task, physics: str, episodes: int, backend: str = "gymnasium", chunk: int = 1) -> None:
        if not isinstance(episodes, (int, np.integer)) or episodes < 1:
            raise ConfigError(f"An evaluation needs at least 1 episode, not {episodes!r}.")
        self.task, self.physics, self.episodes, self.chunk = task, physics, episodes, chunk
        self.standardised_by: tuple[Sequence[float], Sequence[float]] = ((), ())
        self._make = env_backends.get(backend)
        self.stop = Event()
        self.on_reset: Callable[[NDArray[Any]], None] = lambda states: None
        self.on_step: Callable[[Sequence[int], NDArray[Any], StepResult], None] = lambda which, actions, stepped: None
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
        states = self.environments.reset(seeds, groups)  # (K * E, S)
        self.on_reset(states)
        if self._core is None or self._core[0] is not pack or self._core[1] is not mode:
            self._core = (pack, mode, SamplerCore(pack, self.episodes, mode))  # compiled or captured once
        core, (mean, std) = self._core[2], map(np.asarray, self.standardised_by)
        noise = core.noise_stream(f"evaluation {step}")
        replica, time = np.arange(len(states)) // self.episodes, 0
        returns, lengths = np.zeros(len(states)), np.zeros(len(states), dtype=np.int64)
        faults: dict[int, tuple[str, bool]] = {}  # by row, why it is left out, and whether its policy has diverged

        def sound(live: NDArray[np.int64], values: NDArray[Any], what: str, diverged: bool = False) -> Any:
            """Whose replicas, of episodes (n,), have no fault; what is not finite in values (K * E, ...) is one."""
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)[live]
            for episode in live[~finite].tolist():
                whose = "its policy" if diverged else f"the environment '{self.task.environment}'"
                when = f"at step {time} of the episode with seed {seeds[episode]}"
                faults.setdefault(int(replica[episode]), (f"{whose} gives {what}, {when}.", diverged))
            return ~np.isin(replica[live], list(faults))

        live = np.flatnonzero(np.isin(replica, list(rows)))
        live = live[sound(live, states, "a NaN or infinite first observation")]
        while len(live):
            if self.stop.is_set():
                raise StoppedError("stopped in an evaluation")
            seen = torch.from_numpy((states - mean) / std if len(mean) else states)
            chosen = core.sample_actions(seen.view(pack.replicas, self.episodes, -1), noise.at(time // self.chunk))
            actions = chosen.double().cpu().numpy().reshape(len(states), -1)  # a chunk's side by side
            live = live[sound(live, actions, "NaN or infinite actions", diverged=True)]
            for action in np.split(actions, self.chunk, axis=1):
                if not len(live):
                    break
                which, taken = live.tolist(), action[live]
                stepped = self.environments.step(which, taken)
                self.on_step(which, taken, stepped)
                states[live] = stepped.state
                returns[live] += stepped.reward
                lengths[live] += 1
                time += 1
                sound(live, states, "a NaN or infinite observation")
                live = live[sound(live, returns, "a NaN or infinite reward") & ~stepped.over]
        pairs = zip(np.split(returns, pack.replicas), np.split(lengths, pack.replicas), strict=True)
        return [EvaluationEpisodes(*pair, *faults.get(row, ())) for row, pair in enumerate(pairs)]

    @cached_property
    def environments(self) -> Environments:
        """What is stepped, made once."""
        return self._make(self.task, self.physics)

    def close(self) -> None:
        """Free what is stepped, if anything was: an environment that draws cannot do so by itself once Python ends."""
        if "environments" in vars(self):
            self.environments.close()


def initial_seeds(seed: int, step: int, episodes: int, *stream: int) -> list[int]:
    """Environment seeds of an evaluation's episodes, by the run's seed + 100, as in the official code, and the step."""
    return list(map(int, np.random.SeedSequence([seed + 100, step, *stream]).generate_state(episodes)))
