"""The 2D bandit as a Gymnasium environment; importing this module registers `dqlab/Bandit2D-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dqlab.envs.bandit import REWARD_STD, REWARDS, modes_of


class Bandit2D(gymnasium.Env):  # type: ignore[misc]
    """One state (0), one action in [-1, 1]^2, one reward, and the episode is over.

    The paper defines rewards for its data only. Here an action within 0.25 of a mode gets what the data's actions of
    that mode get, N(mean reward of the mode, 0.5); any other action gets 0, the mean reward of the worst mode.
    """

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        mode = int(modes_of(np.asarray(action, dtype=np.float64)[None])[0])
        reward = 0.0 if mode < 0 else float(self.np_random.normal(REWARDS[mode], REWARD_STD))
        return np.zeros(1, dtype=np.float32), reward, True, False, {}


gymnasium.register("dqlab/Bandit2D-v0", entry_point=Bandit2D, max_episode_steps=1)
