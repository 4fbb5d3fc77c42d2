"""Steps of MuJoCo 2.1.0, repeated on the installed one."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import numpy as np

from dqlab.envs.physics import legacy_inertia
from dqlab.envs.tasks import tasks

TASK = "walker2d-medium-v2"


def largest_error(law: Any = legacy_inertia) -> tuple[int, float]:
    """How many steps are repeated, and the largest error of observations and rewards.

    Args:
        law: the physics law.
    """
    import gymnasium

    recorded = json.loads((files("dqlab.doctor") / "walker2d.json").read_text())
    task = tasks.entries[TASK].item
    env = gymnasium.make(task.env_id, disable_env_checker=True).unwrapped
    law(env.model, task.body)
    env.reset(seed=0)
    env.set_state(np.array(recorded["qpos"]), np.array(recorded["qvel"]))
    worst = 0.0
    for action, *expected in zip(*(recorded[name] for name in ("actions", "observations", "rewards")), strict=True):
        got = env.step(np.array(action))[:2]
        worst = max(worst, *(float(np.abs(np.subtract(*pair)).max()) for pair in zip(got, expected, strict=True)))
    return len(recorded["actions"]), worst
