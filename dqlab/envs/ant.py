"""Gym's Ant-v2, as D4RL has it, on Gymnasium's Ant-v4; importing this module registers `dqlab/Ant-v2`."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v4 import AntEnv

from dqlab.envs.physics import Array


class Ant(AntEnv):  # type: ignore[misc]
    """An ant (8 actions in [-1, 1], 150 N m each) that is to run along x: D4RL's ant-*-v2.

    The observation (111,) is position without x and y (13,), velocity (14,), and contact forces (84,), which are 0:
    MuJoCo from 2.0 on computes them only where a sensor asks for them, and this model has none. The reward is the
    velocity along x, plus 1, minus half the squared norm of the action; the episode ends when the torso is lower than
    0.2 m or higher than 1 m. Ant-v4 alone has an observation of 27 numbers, or true contact forces and their cost.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (111,), np.float64)

    def set_state(self, qpos: Array, qvel: Array) -> None:
        """Stand in a state, the torso's quaternion normalised, as MuJoCo 2.1.0 does by itself."""
        normalised = np.array(qpos, dtype=np.float64)
        mujoco.mj_normalizeQuat(self.model, normalised)
        super().set_state(normalised, qvel)

    def _get_obs(self) -> Array:
        return np.concatenate([super()._get_obs(), np.zeros(84)])


gymnasium.register("dqlab/Ant-v2", entry_point=Ant, max_episode_steps=1000)
