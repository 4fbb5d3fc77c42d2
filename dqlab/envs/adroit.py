"""D4RL's Adroit hands on gymnasium-robotics' environments; importing this module registers `dqlab/Adroit*-v1`."""

from __future__ import annotations

import contextlib
import copy
import io
from functools import lru_cache
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from dqlab.envs.physics import Array, CompiledModelEnv, round_radii
from dqlab.envs.robots import Stepper

with contextlib.redirect_stderr(io.StringIO()):  # it prints notices of other environments
    from gymnasium_robotics.envs.adroit_hand.adroit_door import AdroitHandDoorEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_hammer import AdroitHandHammerEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_pen import AdroitHandPenEnv
    from gymnasium_robotics.envs.adroit_hand.adroit_relocate import AdroitHandRelocateEnv

DROPPED = 0.075  # m; a pen whose centre is lower has fallen off the hand
_compiled = lru_cache(maxsize=4)(mujoco.MjModel.from_xml_path)


def distance(one: Array, other: Array) -> float:
    """Metres between two points (3,)."""
    return float(np.linalg.norm(one - other))


class AdroitHand(CompiledModelEnv, MujocoEnv):  # type: ignore[misc]
    """What the four have in common: it comes before gymnasium-robotics' environment among an environment's bases."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(reward_type="dense", **arguments)

    def reward(self, theirs: float) -> float:
        """D4RL's reward of the state; `theirs` is gymnasium-robotics', which rewards distances that D4RL punishes."""
        return theirs

    def compile_model(self) -> Any:
        return copy.copy(_compiled(self.fullpath))  # 7 MB; a reset moves places in it

    def get_env_state(self) -> dict[str, Array]:
        """What `set_env_state` takes, of what gymnasium-robotics' has."""
        found = super().get_env_state()
        return {name: found[name] for name in self._state_space}

    def over(self) -> bool:
        """Whether the state ends the episode."""
        return False

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """50 ms under an action; `info["goal_achieved"]` as in D4RL."""
        observation, reward, _, _, info = super().step(action)
        return observation, self.reward(float(reward)), self.over(), False, {"goal_achieved": bool(info["success"])}


class AdroitPen(AdroitHand, AdroitHandPenEnv):  # type: ignore[misc]
    """A hand (24 actions in [-1, 1]: angles of its joints) turns a pen to the orientation of a target.

    Observation (45,): 24 joint angles; position, velocity and axis of the pen; axis of the target; what position and
    axis lack. The reward is the cosine between the axes, minus the distance from the target's place, plus 10 (60) when
    that is below 0.075 and the cosine above 0.9 (0.95), minus 5 for a pen that was dropped, which ends the episode.
    """

    def over(self) -> bool:
        return bool(self.data.xpos[self.obj_body_id][2] < DROPPED)


class AdroitArm(AdroitHand):
    """A hand on an arm, which reaches tables: contacts deep in their boxes are MuJoCo 2.1.0's."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._stepper = Stepper(self.model, self.data, round_radii(self.model))

    def do_simulation(self, ctrl: Array, n_frames: int) -> None:
        self.data.ctrl[:] = ctrl
        self._stepper.step(n_frames)


class AdroitDoor(AdroitArm, AdroitHandDoorEnv):  # type: ignore[misc]
    """A hand on an arm (28 actions in [-1, 1]: angles of its joints) undoes a latch and opens a door.

    Observation (39,): 27 joint angles; the latch; the door's angle; places of palm and handle, and their difference;
    whether the door is open.
    """

    def reward(self, theirs: float) -> float:
        places, angle = self.data.site_xpos, float(self.data.qpos[self.door_hinge_addrs])
        reward = -0.1 * distance(places[self.grasp_site_id], places[self.handle_site_id])
        reward += -0.1 * (angle - 1.57) ** 2 - 1e-5 * float(np.sum(self.data.qvel**2))
        return reward + 2.0 * (angle > 0.2) + 8.0 * (angle > 1.0) + 10.0 * (angle > 1.35)


class AdroitHammer(AdroitArm, AdroitHandHammerEnv):  # type: ignore[misc]
    """A hand on an arm (26 actions in [-1, 1]: angles of its joints) drives a nail into a board with a hammer.

    Observation (46,): 27 positions, 6 velocities of the hammer; places of palm and hammer, its angles; the nail's place
    and the force on it.
    """

    def reward(self, theirs: float) -> float:
        places, hammer = self.data.site_xpos, self.data.xpos[self.obj_body_id]
        head, nail = places[self.tool_site_id], places[self.target_obj_site_id]
        lacking = distance(nail, places[self.goal_site_id])
        reward = -0.1 * distance(places[self.S_grasp_site_id], hammer) - distance(head, nail) - 10.0 * lacking
        reward -= 1e-2 * float(np.linalg.norm(self.data.qvel))
        lifted = bool(hammer[2] > 0.04 and head[2] > 0.04)
        return reward + 2.0 * lifted + 25.0 * (lacking < 0.02) + 75.0 * (lacking < 0.01)


class AdroitRelocate(AdroitArm, AdroitHandRelocateEnv):  # type: ignore[misc]
    """A hand on an arm (30 actions in [-1, 1]: angles of its joints) carries a ball to a target.

    Observation (39,): 30 joint angles; differences of palm, ball and target.
    """

    def get_env_state(self) -> dict[str, Array]:
        """`obj_pos` is where the ball was at the reset, which `set_env_state` puts it to, not where it has rolled."""
        return {**super().get_env_state(), "obj_pos": self.model.body_pos[self.obj_body_id].copy()}

    def reward(self, theirs: float) -> float:
        palm, ball = self.data.site_xpos[self.S_grasp_site_id], self.data.xpos[self.obj_body_id]
        target = self.data.site_xpos[self.target_obj_site_id]
        reward, lacking = -0.1 * distance(palm, ball), distance(ball, target)
        if ball[2] > 0.04:
            reward += 1.0 - 0.5 * distance(palm, target) - 0.5 * lacking
        return reward + 10.0 * (lacking < 0.1) + 20.0 * (lacking < 0.05)


gymnasium.register("dqlab/AdroitPen-v1", entry_point=AdroitPen, max_episode_steps=100)
for _name, _made in (("Door", AdroitDoor), ("Hammer", AdroitHammer), ("Relocate", AdroitRelocate)):
    gymnasium.register(f"dqlab/Adroit{_name}-v1", entry_point=_made, max_episode_steps=200)
