"""D4RL's Adroit pen on gymnasium-robotics' environment; importing this module registers `dqlab/AdroitPen-v1`."""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from dqlab.envs.physics import CompiledModelEnv

with contextlib.redirect_stderr(io.StringIO()):  # it prints notices of other environments
    from gymnasium_robotics.envs.adroit_hand.adroit_pen import AdroitHandPenEnv

Array = NDArray[np.float64]
DROPPED = 0.075
"""m; a pen whose centre is lower has fallen off the hand."""


@lru_cache(maxsize=1)
def _compiled(file: str) -> Any:
    return mujoco.MjModel.from_xml_path(file)


class AdroitPen(CompiledModelEnv, AdroitHandPenEnv):  # type: ignore[misc]
    """A hand (24 actions in [-1, 1]: angles of its joints) turns a pen to the orientation of a target.

    Observation (45,): 24 joint angles; position, velocity and axis of the pen; axis of the target; what position and
    axis lack. The reward is the cosine between the axes, minus the distance from the target's place, plus 10 (60) when
    that is below 0.075 and the cosine above 0.9 (0.95), minus 5 for a pen that was dropped, which ends the episode.

    Args:
        arguments: of `MujocoEnv`, such as `render_mode`.

    Attributes:
        target: quaternion (4,) of the target's orientation.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(reward_type="dense", **arguments)

    def compile_model(self) -> Any:
        return _compiled(self.fullpath)

    def reset_model(self) -> Array:
        """Draw a target; the observation (45,)."""
        observation = super().reset_model()
        self.target = self.model.body_quat[self.target_obj_body_id].copy()
        return np.asarray(observation)

    def get_env_state(self) -> dict[str, Any]:
        """`qpos`, `qvel` and `desired_orien`, the target."""
        self._aim()
        return dict(super().get_env_state())

    def set_env_state(self, state_dict: dict[str, Any]) -> None:
        """Stand in a state that `get_env_state` gave."""
        self.target = np.array(state_dict["desired_orien"])
        super().set_env_state(state_dict)

    def _aim(self) -> None:
        """Put this environment's target into the model, which all of a process share."""
        self.model.body_quat[self.target_obj_body_id] = self.target

    def render(self) -> Any:
        self._aim()
        mujoco.mj_kinematics(self.model, self.data)
        return super().render()

    def step(self, action: NDArray[np.floating]) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """50 ms under an action (24,); `info["goal_achieved"]` as in D4RL."""
        self._aim()
        observation, reward, _, _, info = super().step(action)
        dropped = bool(self.data.xpos[self.obj_body_id][2] < DROPPED)
        return observation, float(reward), dropped, False, {"goal_achieved": bool(info["success"])}


gymnasium.register("dqlab/AdroitPen-v1", entry_point=AdroitPen, max_episode_steps=100)
