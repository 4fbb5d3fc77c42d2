"""Behaviour policies: stable-baselines3's PPO on the D4RL-faithful environment, with checkpoints along the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.envs.making import make_env
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError
from dqlab.registry import configurable


@configurable("collection")
@dataclass(frozen=True)
class BehaviourTraining:
    """PPO (Schulman et al. 2017) with normalised observations and returns and a linearly decaying learning rate.

    Attributes:
        steps: environment steps in all.
        checkpoint_every: environment steps between two saved policies.
        n_envs, n_steps: environments stepped together, and steps of each between two updates.
        batch_size, epochs: of each PPO update.
        learning_rate: at the start; it falls linearly to 0.
        seed: of networks, environments and action noise.
        physics: a name from the `physics` registry.
    """

    steps: int = 3_000_000
    checkpoint_every: int = 100_000
    n_envs: int = 16
    n_steps: int = 128
    batch_size: int = 64
    epochs: int = 10
    learning_rate: float = 3e-4
    seed: int = 0
    physics: str = "mujoco210"

    def run(self, task: Task, folder: Path) -> list[Path]:
        """Train, or find already trained, policies for `task`; returns the checkpoints' folders, oldest first."""
        finished = folder / "finished"
        if not finished.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._train(task, folder)
            finished.write_text(f"{self}\n")
        elif finished.read_text().strip() != str(self):
            raise ConfigError(
                f"{folder} holds behaviour policies trained with other settings ({finished}). Choose another --out."
            )
        return sorted(path for path in folder.iterdir() if path.is_dir())

    def _train(self, task: Task, folder: Path) -> None:
        sb3 = _import_sb3()
        venv = self._vector_env(task)
        model = sb3.PPO(
            "MlpPolicy",
            venv,
            learning_rate=lambda remaining: self.learning_rate * remaining,
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_epochs=self.epochs,
            vf_coef=0.25,
            seed=self.seed,
            device="cpu",
        )
        model.learn(self.steps, callback=_saver(folder, max(self.checkpoint_every // self.n_envs, 1)))
        venv.close()

    def _vector_env(self, task: Task) -> Any:
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        def build() -> Any:
            return Monitor(make_env(task, self.physics))

        venv = DummyVecEnv([build for _ in range(self.n_envs)])
        venv.seed(self.seed)
        return VecNormalize(venv, gamma=0.99)


class BehaviourPolicy:
    """A saved PPO policy as a stochastic map from raw observations (B, S) to actions (B, A) in [-1, 1]."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._model = _import_sb3().PPO.load(folder / "policy.zip", device="cpu")
        statistics = np.load(folder / "observation_statistics.npz")
        self._mean, self._std = statistics["mean"], np.sqrt(statistics["var"] + float(statistics["epsilon"]))

    def seed(self, seed: int) -> None:
        """Restart the action noise from a seed."""
        self._model.set_random_seed(seed)

    def act(self, observations: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
        """Sample one action for each observation."""
        normalised = np.clip((observations - self._mean) / self._std, -10.0, 10.0)
        actions, _ = self._model.predict(normalised, deterministic=False)
        return np.clip(actions, -1.0, 1.0)


def _import_sb3() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise ConfigError("Collecting needs stable-baselines3: pip install 'dqlab[collect]'") from error
    return stable_baselines3


def _saver(folder: Path, every_calls: int) -> Any:
    """A stable-baselines3 callback that saves policy and observation statistics every so many calls."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Saver(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            if self.n_calls % every_calls == 0:
                _save(self.model, folder / f"step-{self.num_timesteps:09d}")
            return True

    return Saver()


def _save(model: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "policy.zip")
    statistics = model.get_vec_normalize_env().obs_rms
    np.savez(folder / "observation_statistics.npz", mean=statistics.mean, var=statistics.var, epsilon=1e-8)
