"""The state of one of today's environments, in the words of the original stack's protocol (docs/legacy.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

State = dict[str, Any]
"""`qpos`, `qvel`; where there are such: `desired_orien` (pen), `goal` (AntMaze), `remaining` (kitchen)."""


def state_of(env: Any) -> State:
    """All that decides what follows."""
    inner = env.unwrapped
    return {"qpos": inner.data.qpos.tolist(), "qvel": inner.data.qvel.tolist(), **_hidden(inner)}


def stand(env: Any, state: State) -> NDArray[np.float64]:
    """Forget the past (contacts, warm starts, time), stand in this state; the observation of it."""
    import mujoco

    inner = env.unwrapped
    mujoco.mj_resetData(inner.model, inner.data)
    inner.data.qpos[:], inner.data.qvel[:] = state["qpos"], state["qvel"]
    _hide(inner, state)
    mujoco.mj_forward(inner.model, inner.data)
    return np.array(_observe(inner), dtype=np.float64)


def _hidden(env: Any) -> State:
    found: State = {}
    if hasattr(env, "target_obj_body_id"):
        found["desired_orien"] = env.target.tolist()
    if hasattr(env, "maze"):
        found["goal"] = env.goal.tolist()
    if hasattr(env, "open_goals"):
        found["remaining"] = sorted(env.open_goals)
    return found


def _hide(env: Any, state: State) -> None:
    if "desired_orien" in state:
        env.target = np.array(state["desired_orien"])
        env.model.body_quat[env.target_obj_body_id] = env.target
    if "goal" in state:
        env.goal = np.array(state["goal"])
    if "remaining" in state:
        env.open_goals = set(state["remaining"])


def _observe(env: Any) -> Any:
    """By whichever name it has; the kitchen's also notes where its velocity control starts from."""
    named = (getattr(env, name, None) for name in ("_observe", "_observation", "_get_obs"))
    return next(function for function in named if function is not None)()
