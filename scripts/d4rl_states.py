"""The worker of D4RL's own stack (docs/legacy.md), whose environments' states can be read and set, too.

It runs in the original stack's own Python: `Worker(legacy_python(), program=STATES)` starts it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from d4rl_worker import Copy, Service, main, plain


def state_of(copy: Copy) -> dict[str, Any]:
    """All that decides what follows: beside `qpos` and `qvel` a hand's places, a goal, the kitchen's open tasks."""
    env, data = copy.core, copy.core.sim.data
    found: dict[str, Any] = {name: plain(place) for name, place in places(env).items()}
    if hasattr(env, "set_target_goal"):
        found["goal"] = plain(env.target_goal)
    if hasattr(env, "get_target"):
        found["goal"] = plain(env.get_target())
    if hasattr(env, "tasks_to_complete"):
        found["remaining"] = sorted(env.tasks_to_complete)
    return {"qpos": plain(data.qpos), "qvel": plain(data.qvel), **found}


def set_state(copy: Copy, state: dict[str, Any]) -> list[float]:
    """Forget the past (contacts, warm starts, time), stand in this state; the observation of it."""
    env, sim = copy.core, copy.core.sim
    qpos, qvel = np.array(state["qpos"], dtype=float), np.array(state["qvel"], dtype=float)
    if qpos.shape != sim.data.qpos.shape or qvel.shape != sim.data.qvel.shape:
        raise ValueError(f"qpos and qvel have {sim.model.nq} and {sim.model.nv} numbers here")
    sim.reset()
    sim.data.qpos[:], sim.data.qvel[:] = qpos, qvel
    for name, place in places(env).items():
        if name in state:
            place[:] = state[name]
    if "goal" in state:
        env.set_target(np.array(state["goal"]))
    if "remaining" in state:
        env.tasks_to_complete = set(state["remaining"])
    sim.forward()
    # D4RL's MuJoCo robots and balls have the private name only; the kitchen's enters its velocity control, too
    return plain(env.get_obs() if hasattr(env, "get_obs") else env._get_obs())


def places(env: Any) -> dict[str, np.ndarray]:
    """Views of what of its model a hand draws at a reset: the pen's wanted quaternion, where things lie."""
    model = env.model
    if hasattr(env, "target_obj_bid"):
        return {"desired_orien": model.body_quat[env.target_obj_bid]}
    if hasattr(env, "door_bid"):
        return {"door_body_pos": model.body_pos[env.door_bid]}
    if hasattr(env, "tool_sid"):
        return {"board_pos": model.body_pos[model.body_name2id("nail_board")]}
    if hasattr(env, "target_obj_sid"):
        return {"obj_pos": model.body_pos[env.obj_bid], "target_pos": model.site_pos[env.target_obj_sid]}
    return {}


class StateService(Service):
    def get_state(self, which: list[int]) -> dict[str, Any]:
        """`qpos`, `qvel` and what else decides what follows, of each of these copies."""
        return {"states": [state_of(self.copies[number]) for number in which]}

    def set_state(self, which: list[int], states: list[dict[str, Any]]) -> dict[str, Any]:
        """Put some copies into states; their observations. The episode's step count goes on."""
        return {"observations": [set_state(self.copies[number], state) for number, state in zip(which, states)]}


if __name__ == "__main__":
    sys.exit(main(StateService()))
