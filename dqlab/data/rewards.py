"""Reward transforms: functions of rewards (n,) and episode returns, applied once when a dataset is loaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.errors import DataError

RewardTransform = Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float32]]
reward_transforms: Registry[RewardTransform] = Registry(
    "reward_transform", "How rewards are rescaled before training.", "load_dataset.reward_transform"
)


@reward_transforms.register("none", source="Diffusion-QL, gym and kitchen tasks", cites=("wang2023diffusion",))
def as_is(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rewards as recorded."""
    return reward


@reward_transforms.register(
    "standardise", source="Diffusion-QL's official code ('normalize'), Adroit tasks", cites=("wang2023diffusion",)
)
def standardise(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """(r - mean) / std over the dataset's transitions (std with n - 1, as torch computes it)."""
    std = _positive(float(reward.std(ddof=1, dtype=np.float64)), "all rewards are equal")
    return np.asarray((reward - reward.mean(dtype=np.float64)) / std, dtype=np.float32)


@reward_transforms.register("iql_antmaze", source="Kostrikov et al. 2022 (IQL)", cites=("kostrikov2022offline",))
def iql_antmaze(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """r - 1."""
    return (reward - 1).astype(np.float32)


@reward_transforms.register("iql_locomotion", source="Kostrikov et al. 2022 (IQL)", cites=("kostrikov2022offline",))
def iql_locomotion(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """1000 r / (largest - smallest episode return)."""
    spread = _positive(float(np.ptp(returns)), "all episodes have the same return")
    return np.asarray(reward * (1000.0 / spread), dtype=np.float32)


@reward_transforms.register(
    "cql_antmaze",
    source="Kumar et al. 2020 (CQL); Diffusion-QL, AntMaze tasks",
    cites=("kumar2020conservative", "wang2023diffusion"),
)
def cql_antmaze(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """4 (r - 0.5)."""
    return ((reward - 0.5) * 4).astype(np.float32)


@reward_transforms.register("antmaze", source="Diffusion-QL's official code", cites=("wang2023diffusion",))
def antmaze(reward: NDArray[np.float32], returns: NDArray[np.float64]) -> NDArray[np.float32]:
    """2 (r - 0.25)."""
    return ((reward - 0.25) * 2).astype(np.float32)


def _positive(value: float, why_not: str) -> float:
    if not value > 0:
        raise DataError(f"This reward transform cannot be used here: {why_not}. Use 'none'.")
    return value
