"""PPO: its training, in stages that can be continued, and the files that it leaves.

Of stable-baselines3's private names two are used, both here: `_n_updates`, from which a continued training goes on, and
`_setup_model`, which `_init_setup_model` puts off until the learning rate can be asked for. Without them a training
that was killed would not go on to the same policies (`tests/tools/collect/test_resuming.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.fields import check_field, check_fields
from dqlab.config.registry import configurable
from dqlab.config.replica import is_seed
from dqlab.envs import make_env
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError
from dqlab.tools.collect.behaviours import environment_key, import_sb3
from dqlab.tools.collect.episodes import Rows, load_arrays, save_arrays, save_episodes, save_text

SETTINGS = "settings.json"


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

    steps: int = 3_000_000
    checkpoint_every: int = 100_000
    n_envs: int = 16
    n_steps: int = 128
    batch_size: int = 64
    epochs: int = 10
    learning_rate: float = 3e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    seed: int = 0
    physics: str = "mujoco210"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "checkpoint_every", "n_envs", "n_steps", "batch_size", "epochs"):
            check_field(getattr(self, name) > 0, self, name, "above 0")
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
            folder: of the files.
            record: keep all that is experienced, too: `experience_of(path)`.
            log: is told of every stage.

        Raises:
            ConfigError: the folder holds policies of other settings, or PPO is not installed.
            DataError: a file is damaged or not writable.
        """
        paths = [folder / f"step-{target:09d}.npz" for target in self.targets]
        left = [path for path in paths if not path.exists() or (record and not experience_of(path).exists())]
        if left:
            import_sb3()  # before anything is written
        self._claim(task, folder)
        for before, path, target in zip([None, *paths], paths, self.targets, strict=False):
            if path in left:
                reward = self._stage(task, before, path, target, record)
                log(f"PPO: {target:,} of {self.targets[-1]:,} steps; mean return of the last episodes {reward:.1f}")
        return paths

    def _claim(self, task: Task, folder: Path) -> None:
        settings = {"training": str(self), "environment": environment_key(task, self.physics)}
        known = folder / SETTINGS
        if not known.exists():
            if folder.exists() and any(folder.iterdir()):
                raise ConfigError(f"{folder} holds something else than policies of this version. Choose another --out.")
            save_text(known, json.dumps(settings, indent=1))
        elif known.read_text() != json.dumps(settings, indent=1):
            raise ConfigError(
                f"{folder} holds behaviour policies trained with other settings ({known}). Choose another --out."
            )

    def _stage(self, task: Task, before: Path | None, path: Path, target: int, record: bool) -> float:
        """From the file before (None: from the beginning) to the next one; the mean return of the last episodes."""
        from dqlab.tools.collect.recording import EpisodeRecorder

        episodes: list[Rows] = []
        keep = episodes.append if record else _ignore
        recorders = [EpisodeRecorder(make_env(task, self.physics), keep) for _ in range(self.n_envs)]
        with _one_thread():
            model = self._model(recorders)
            if before:
                restore_ppo(model, before)
            model.set_random_seed(self._stage_seed(target))
            model.learn(target - model.num_timesteps, reset_num_timesteps=False)
        for recorder in recorders:
            recorder.cut()
        if record:
            save_episodes(experience_of(path), episodes)
        save_ppo(model, path)
        model.env.close()
        returns = [episode["r"] for episode in model.ep_info_buffer]
        return float(np.mean(returns)) if returns else math.nan

    def _stage_seed(self, target: int) -> int:
        return int(np.random.SeedSequence([self.seed, target]).generate_state(1)[0] >> 1)

    def _model(self, envs: list[Any]) -> Any:
        sb3 = import_sb3()
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        venv = DummyVecEnv([partial(Monitor, env) for env in envs])
        model: Any = sb3.PPO(
            "MlpPolicy",
            VecNormalize(venv, gamma=self.discount),
            learning_rate=lambda _: self.learning_rate * max(0.0, 1.0 - model.num_timesteps / self.targets[-1]),
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_epochs=self.epochs,
            gamma=self.discount,
            gae_lambda=self.gae_lambda,
            vf_coef=0.25,
            seed=self.seed,
            device="cpu",
            _init_setup_model=False,
        )
        model._setup_model()  # now that the learning rate can be asked for
        return model


def experience_of(path: Path) -> Path:
    """The file of what was experienced in the stage that ended with a policy."""
    return path.parent / "experience" / path.name


def _ignore(rows: object) -> None:
    """Nothing is kept."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks so small are fastest on one thread; and results depend on their number in the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


MOMENTS = ("mean", "var", "count")
"""What VecNormalize keeps of observations and of returns."""


def save_ppo(model: Any, path: Path) -> None:
    """Write all that training continues from.

    Raises:
        DataError: the file cannot be written.
    """
    arrays = {f"policy|{name}": value.numpy() for name, value in model.policy.state_dict().items()}
    for number, moments in model.policy.optimizer.state_dict()["state"].items():
        arrays |= {f"adam|{number}|{name}": value.numpy() for name, value in moments.items()}
    normaliser = model.get_vec_normalize_env()
    for which in ("obs_rms", "ret_rms"):
        arrays |= {f"{which}|{name}": np.asarray(getattr(getattr(normaliser, which), name)) for name in MOMENTS}
    arrays["steps"], arrays["updates"] = np.array(model.num_timesteps), np.array(model._n_updates)
    save_arrays(path, arrays)


def restore_ppo(model: Any, path: Path) -> None:
    """Put a freshly made model into a saved state.

    Raises:
        DataError: the file is damaged, or of other networks.
    """
    import torch

    arrays = load_arrays(path)
    try:
        model.policy.load_state_dict({name: torch.from_numpy(value) for name, value in _group(arrays, "policy")})
        state: dict[int, dict[str, Any]] = {}
        for name, value in _group(arrays, "adam"):
            number, _, moment = name.partition("|")
            state.setdefault(int(number), {})[moment] = torch.from_numpy(value)
        groups = model.policy.optimizer.state_dict()["param_groups"]
        model.policy.optimizer.load_state_dict({"state": state, "param_groups": groups})
        normaliser = model.get_vec_normalize_env()
        for which in ("obs_rms", "ret_rms"):
            for name, value in _group(arrays, which):
                setattr(getattr(normaliser, which), name, value if value.ndim else float(value))
        model.num_timesteps, model._n_updates = int(arrays["steps"]), int(arrays["updates"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is no state of this training ({error}). Delete it: it is made anew.") from error


def _group(arrays: dict[str, NDArray[Any]], name: str) -> list[tuple[str, NDArray[Any]]]:
    return [(key.partition("|")[2], value) for key, value in arrays.items() if key.startswith(f"{name}|")]


CLIP = 10.0
"""Normalised observations are clipped to +-10, as in stable-baselines3's VecNormalize."""


class GaussianMLP:
    """The policy in a file: a Gaussian around a tanh network of the normalised observation, in float64.

    Rows are multiplied one by one, so that each one's result is the same whatever the others are.
    """

    def __init__(self, path: Path) -> None:
        arrays = load_arrays(path)
        try:
            self._mean = arrays["obs_rms|mean"]
            self._std = np.sqrt(arrays["obs_rms|var"] + 1e-8)
            hidden = sorted(
                {name.split(".")[2] for name in arrays if name.startswith("policy|mlp_extractor.policy_net")}
            )
            names = [*(f"mlp_extractor.policy_net.{number}" for number in hidden), "action_net"]
            self._layers = [_layer(arrays, name) for name in names]
            self.std = np.exp(arrays["policy|log_std"].astype(np.float64))
        except KeyError as error:
            raise DataError(f"{path} holds no policy ({error}). Delete it: it is made anew.") from error

    def mean(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        """Means (B, A) for observations (B, S)."""
        x = np.clip((observations - self._mean) / self._std, -CLIP, CLIP)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(_rows(x, weight) + bias)
        weight, bias = self._layers[-1]
        return _rows(x, weight) + bias


def _layer(arrays: dict[str, NDArray[Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight, bias = (arrays[f"policy|{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    return np.ascontiguousarray(weight.T), bias


def _rows(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x[:, None, :] @ weight)[:, 0, :])
