"""Policies of stable-baselines3's files as behaviours."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.collection.behaviours import Act, Acting, Stage, behaviours
from dqlab.collection.training import import_sb3
from dqlab.envs.scaling import to_unit
from dqlab.errors import ConfigError
from dqlab.files import expanded, sha256_of

STATISTICS = "vecnormalize.pkl"


@behaviours.register("sb3", source="stable-baselines3 (Raffin et al. 2021)")
class SB3Policy(Acting):
    """A policy that stable-baselines3 saved, `sb3:PATH.zip`, of any of its algorithms with continuous actions.

    Actions are mapped from the model's own bounds to [-1, 1]. Such files run code when they are read: open only what
    you trust.

    Args:
        argument: the file.
        stage: where it acts.
        deterministic: whether it acts by its mean.
        statistics: VecNormalize's file, by which observations are normalised; `vecnormalize.pkl` beside the policy,
            where there is one, by default.
    """

    def __init__(self, argument: str, stage: Stage, deterministic: bool = False, statistics: str = "") -> None:
        super().__init__(argument, stage)
        self._deterministic, self._path = deterministic, expanded(argument)
        self._statistics = expanded(statistics) if statistics else self._path.with_name(STATISTICS)
        self._must = bool(statistics)

    def prepare(self) -> None:
        """Read the files."""
        if not self._path.is_file():
            raise ConfigError(f"There is no file '{self._path}' (sb3:PATH.zip in Collection.mixture).")
        self._policy = _read(self._path)
        self._normalise = _normaliser(self._statistics) if self._must or self._statistics.exists() else np.asarray
        task = self.stage.task
        spaces = self._policy.observation_space, self._policy.action_space
        if tuple(getattr(space, "shape", None) for space in spaces) != ((task.state_dim,), (task.action_dim,)):
            raise ConfigError(
                f"{self._path} is a policy for observations {spaces[0]} and actions {spaces[1]}; {task.robot} has "
                f"{task.state_dim} and {task.action_dim}."
            )

    def about(self) -> str:
        """As in `Behaviour`."""
        how = "deterministic" if self._deterministic else "stochastic"
        return f"stable-baselines3's {type(self._policy).__name__} in {self._path.name}, {how}"

    def identity(self) -> str:
        """Digests of the files."""
        files = [self._path, *([self._statistics] if self._statistics.exists() else [])]
        return f"sb3 {[sha256_of(file) for file in files]} {self._deterministic}"

    def begin(self, seeds: Sequence[int]) -> Act:
        """One observation at a time: torch's generator is seeded anew for each."""
        import torch

        generators = [np.random.default_rng(seed) for seed in seeds]

        def one(observation: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
            torch.manual_seed(int(generator.integers(2**62)))
            return np.asarray(self._policy.predict(self._normalise(observation), deterministic=self._deterministic)[0])

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            with torch.random.fork_rng(devices=[]):
                actions = np.stack([one(*pair) for pair in zip(observations, generators, strict=True)])
            low, high = self._policy.action_space.low, self._policy.action_space.high
            return to_unit(actions, low, high)

        return act


def _read(path: Path) -> Any:
    """The policy alone, whatever the algorithm: its class, its arguments and its weights are all in the file."""
    import_sb3()
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        data, weights, _ = load_from_zip_file(path, device="cpu")
        assert data is not None
        arguments = dict(data["policy_kwargs"])
        arguments |= {"use_sde": True} if data.get("use_sde") else {}
        policy = data["policy_class"](data["observation_space"], data["action_space"], lambda _: 0.0, **arguments)
        policy.load_state_dict(weights["policy"])
    except ImportError as error:
        raise ConfigError(
            f"{path} needs a module that cannot be imported here ({error}): install it, or put it on PYTHONPATH."
        ) from error
    except Exception as error:  # unpickling may fail in any way
        raise ConfigError(f"{path} is no policy of stable-baselines3, or is damaged: {error!r:.200}") from error
    policy.set_training_mode(False)
    return policy


def _normaliser(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            known = pickle.load(file)
        mean, std, clip = known.obs_rms.mean, np.sqrt(known.obs_rms.var + known.epsilon), known.clip_obs
    except Exception as error:  # unpickling may fail in any way
        raise ConfigError(f"{path} holds no statistics of VecNormalize: {error!r:.200}") from error
    return lambda observation: np.clip((observation - mean) / std, -clip, clip).astype(np.float32)
