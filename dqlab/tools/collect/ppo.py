"""PPO: its training, in stages that can be continued, and the files that stable-baselines3 writes of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.config.fields import PositiveInt, check_field, check_fields
from dqlab.config.registry import configurable
from dqlab.config.replica import is_seed
from dqlab.data.formats.reading import write_errors
from dqlab.envs import make_env
from dqlab.envs.tasks import Task
from dqlab.errors import DataError
from dqlab.files import atomic_path
from dqlab.tools.collect.behaviours import environment_key, import_sb3
from dqlab.tools.collect.episodes import REMAKE_ADVICE, RESUME_ADVICE, Rows, save_episodes


@configurable("collection")
@dataclass(frozen=True)
class BehaviourTraining:
    """PPO (Schulman et al. 2017) with normalised observations and returns and a linearly decaying learning rate.

    A stage lasts from one saved policy to the next. Each begins with fresh environments and with generators seeded
    from (seed, stage), so that a stage is a function of the file before it: what is killed continues to the same
    policies. Episodes that are under way at the end of a stage are cut.

    Attributes:
        steps: environment steps in all.
        checkpoint_every: environment steps between two saved policies, rounded up to whole updates.
        n_envs, n_steps: environments stepped together, and steps of each between two updates.
        batch_size, epochs: of each PPO update.
        learning_rate: at the start; it falls linearly to 0.
        discount, gae_lambda: of returns, and of the advantages' estimate.
        seed: of networks, environments and action noise.
        physics: a name from the `physics` registry.
    """

    steps: PositiveInt = 3_000_000
    checkpoint_every: PositiveInt = 100_000
    n_envs: PositiveInt = 16
    n_steps: PositiveInt = 128
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 10
    learning_rate: float = 3e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    seed: int = 0
    physics: str = "mujoco210"

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(is_seed(self.seed), self, "seed", "at least 0 (and below 2**32)")

    @property
    def targets(self) -> list[int]:
        """Environment steps done at the end of each stage: whole updates."""
        update = self.n_envs * self.n_steps
        last, every = math.ceil(self.steps / update), math.ceil(self.checkpoint_every / update)
        return [min(count, last) * update for count in range(every, last + every, every)]

    def run(self, task: Task, folder: Path, record: bool = False, log: Callable[[str], None] = print) -> list[Path]:
        """Train what is not trained yet; returns the policies' files, oldest first.

        Args:
            task: whose environment.
            folder: of such trainings; each has a folder of its own in it, by its settings.
            record: keep all that is experienced, too: `experience_of(path)`.
            log: is told of every stage.

        Raises:
            ConfigError: PPO is not installed.
            DataError: a file is damaged or not writable.
        """
        facts = f"{self} {environment_key(task, self.physics)}"
        folder = folder / hashlib.sha256(facts.encode()).hexdigest()[:10]
        paths = [folder / f"step-{target:09d}.zip" for target in self.targets]
        for before, path, target in zip([None, *paths], paths, self.targets, strict=False):
            parts = [path, statistics_of(path), *([experience_of(path)] if record else [])]
            if not all(part.exists() for part in parts):
                reward = self._stage(task, before, path, target, record)
                log(f"PPO: {target:,} of {self.targets[-1]:,} steps; mean return of the last episodes {reward:.1f}")
        return paths

    def _stage(self, task: Task, before: Path | None, path: Path, target: int, record: bool) -> float:
        """From the file before (None: from the beginning) to the next one; the mean return of the last episodes."""
        import torch

        from dqlab.tools.collect.recording import EpisodeRecorder

        episodes: list[Rows] = []
        keep: Callable[[Rows], None] = episodes.append if record else lambda rows: None
        recorders = [EpisodeRecorder(make_env(task, self.physics), keep) for _ in range(self.n_envs)]
        seed = int(np.random.SeedSequence([self.seed, target]).generate_state(1)[0] >> 1)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # networks so small are fastest; and results depend on the number in the last bit
        try:
            model = self._model(recorders, before, target)
            model.set_random_seed(seed)
            model.learn(target - model.num_timesteps, reset_num_timesteps=False)
        finally:
            torch.set_num_threads(threads)
        for recorder in recorders:
            recorder.cut()
        if record:
            save_episodes(experience_of(path), episodes)
        statistics = statistics_of(path)
        for save, place in ((model.env.save, statistics), (model.save, path)):  # by the policy the stage counts as done
            with write_errors(place, RESUME_ADVICE), atomic_path(place) as temporary:
                save(str(temporary))
        model.env.close()
        returns = [episode["r"] for episode in model.ep_info_buffer]
        return float(np.mean(returns)) if returns else math.nan

    def _model(self, envs: list[Any], before: Path | None, target: int) -> Any:
        """PPO as in the file before, or at its beginning; its learning rate goes on to what it is at the target."""
        sb3 = import_sb3()
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        begun = self.targets[self.targets.index(target) - 1] if before else 0
        rate = partial(_falling, *(self.learning_rate * (1.0 - done / self.targets[-1]) for done in (begun, target)))
        venv = DummyVecEnv([partial(Monitor, env) for env in envs])
        if before:
            try:
                normalised = VecNormalize.load(str(statistics_of(before)), venv)
                return sb3.PPO.load(before, normalised, device="cpu", custom_objects={"learning_rate": rate})
            except Exception as error:  # unpickling may fail in any way
                raise DataError(f"{before} is damaged ({error!r:.200}). {REMAKE_ADVICE}") from error
        return sb3.PPO(
            "MlpPolicy",
            VecNormalize(venv, gamma=self.discount),
            learning_rate=rate,
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_epochs=self.epochs,
            gamma=self.discount,
            gae_lambda=self.gae_lambda,
            vf_coef=0.25,
            seed=self.seed,
            device="cpu",
        )


def _falling(first: float, last: float, remaining: float) -> float:
    """A learning rate that falls linearly; `remaining` is the share of the stage that is to come."""
    return last + (first - last) * remaining


def statistics_of(path: Path) -> Path:
    """The file of VecNormalize's statistics beside a policy."""
    return path.with_suffix(".pkl")


def experience_of(path: Path) -> Path:
    """The file of what was experienced in the stage that ended with a policy."""
    return path.parent / "experience" / f"{path.stem}.npz"
