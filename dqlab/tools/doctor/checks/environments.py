"""MuJoCo, D4RL's physics on it, and what other environments need."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np

from dqlab.envs.legacy.process import legacy_python
from dqlab.envs.physics import legacy_inertia
from dqlab.envs.tasks import tasks
from dqlab.errors import ConfigError
from dqlab.machine import attempt_command, run_isolated
from dqlab.tools.doctor.examination import DoctorFinding, State, register_check
from dqlab.tools.doctor.packages import has_extra, installed_version, requirements_of, unmet_requirements

GROUP = "Environments"
SECONDS = 8.0
EXACT = 1e-9
MUJOCO = "mujoco>=3.1.6,<3.3"
WHY = "MuJoCo 2.1's inertias are exact there"
REPLAY = """
import warnings
warnings.simplefilter("ignore")
from dqlab.tools.doctor.checks.environments import largest_error
print(*largest_error())
"""
PEN = """
import warnings
warnings.simplefilter("ignore")
import gymnasium, gymnasium_robotics
gymnasium.register_envs(gymnasium_robotics)
env = gymnasium.make("AdroitHandPen-v1", disable_env_checker=True)
env.reset(seed=0)
env.step(env.action_space.sample())
"""


@register_check(GROUP, "MuJoCo", needed=True)
def mujoco() -> Iterator[DoctorFinding]:
    """Its version, within the range in which D4RL's physics hold."""
    fix = f"pip install '{MUJOCO}'"
    trouble = [text for text in unmet_requirements(requirements_of()) if text.startswith("mujoco ")]
    if not installed_version("mujoco"):
        yield DoctorFinding("MuJoCo", State.MISSING, "not installed", fix, needed=True)
    elif trouble:
        yield DoctorFinding("MuJoCo", State.WARNING, f"{trouble[0]}: {WHY}", fix)
    else:
        yield DoctorFinding(
            "MuJoCo", State.OK, f"{installed_version('mujoco')}, within {MUJOCO.removeprefix('mujoco')}: {WHY}"
        )


@register_check(GROUP, "D4RL physics", needed=True)
def physics() -> Iterator[DoctorFinding]:
    """Steps of a D4RL environment, repeated."""
    name, tried = "D4RL physics", run_isolated(REPLAY, timeout=SECONDS)
    if not tried.fine:
        fix = _or_unset(f"pip install --force-reinstall '{MUJOCO}'")
        yield DoctorFinding(name, State.BROKEN, f"no environment can be made: {tried.trouble}", fix, needed=True)
        return
    steps, error = tried.output.split()[-2:]
    text = f"walker2d: {steps} steps of MuJoCo 2.1.0 repeated, largest error {float(error):.0e}"
    if float(error) < EXACT:
        yield DoctorFinding(name, State.OK, text, needed=True)
    else:
        text += ": scores would not be D4RL's"
        yield DoctorFinding(name, State.BROKEN, text, f"pip install '{MUJOCO}'", needed=True)


def _or_unset(fix: str) -> str:
    """MuJoCo cannot be imported where $MUJOCO_GL names what is not there."""
    return f"unset MUJOCO_GL, or {fix}" if os.environ.get("MUJOCO_GL") else fix


@register_check(GROUP, "pen, kitchen")
def robotics() -> Iterator[DoctorFinding]:
    """A step of pen."""
    found = has_extra("robotics", "pen can be stepped", "pen, kitchen")
    if found.state is State.OK:
        tried = run_isolated(PEN, timeout=SECONDS)
        if not tried.fine:
            fix = _or_unset("pip install --force-reinstall gymnasium-robotics")
            yield DoctorFinding(found.name, State.BROKEN, tried.trouble, fix)
            return
    yield found


@register_check(GROUP, "original stack")
def original_stack() -> Iterator[DoctorFinding]:
    """D4RL's own environments, in their own Python."""
    from dqlab.envs.legacy.process import worker_environment

    name = "original stack"
    try:
        python = legacy_python()
    except ConfigError as error:
        text, _, fix = str(error).partition(": ")
        yield DoctorFinding(name, State.MISSING, f"{text} (--env-backend d4rl)", fix.partition(";")[0])
        return
    code = "import mujoco_py, gym; print(gym.__version__)"
    tried = attempt_command([str(python), "-c", code], timeout=SECONDS, env=worker_environment(python))
    if tried.fine:
        yield DoctorFinding(name, State.OK, f"gym {tried.output.split()[-1]} and mujoco-py in {python.parent.parent}")
    else:
        yield DoctorFinding(name, State.BROKEN, f"{python}: {tried.trouble}", "rm -r .venv-legacy; make legacy")


TASK = "walker2d-medium-v2"


def largest_error(law: Any = legacy_inertia) -> tuple[int, float]:
    """How many steps are repeated, and the largest error of observations and rewards.

    Args:
        law: the physics law.
    """
    import gymnasium

    recorded = json.loads((files("dqlab.tools.doctor") / "walker2d.json").read_text())
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
