"""MuJoCo, D4RL's physics on it, what other environments need, and what draws them."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from typing import Any

import numpy as np

from dqlab.envs.legacy.backend import legacy_python, worker_environment
from dqlab.envs.physics import legacy_inertia
from dqlab.envs.rendering import GL_BACKENDS, VARIABLE, OpenGL
from dqlab.envs.tasks import tasks
from dqlab.errors import ConfigError
from dqlab.machine import attempt_command, run_isolated
from dqlab.tools.doctor.examination import (
    PROGRAM_SECONDS,
    DoctorFinding,
    State,
    find_extra,
    installed_version,
    register_check,
    requirements_of,
    unmet_requirements,
)

ENVIRONMENTS, PICTURES = "Environments", "Pictures"
EXACT = 1e-9
MUJOCO = "mujoco>=3.1.6,<3.3"
REPLAY = """
import warnings
warnings.simplefilter("ignore")
from dqlab.tools.doctor.environments import largest_error
print(*largest_error())
"""
TASK = "walker2d-medium-v2"


@register_check(ENVIRONMENTS, "MuJoCo", needed=True)
def mujoco() -> DoctorFinding:
    """Its version, within the range in which D4RL's physics hold."""
    fix, why = f"pip install '{MUJOCO}'", "MuJoCo 2.1's inertias are exact there"
    version = installed_version("mujoco")
    trouble = [text for text in unmet_requirements(requirements_of()) if text.startswith("mujoco ")]
    if not version:
        return DoctorFinding(State.MISSING, "not installed", fix)
    if trouble:
        return DoctorFinding(State.WARNING, f"{trouble[0]}: {why}", fix)
    return DoctorFinding(State.OK, f"{version}, within {MUJOCO.removeprefix('mujoco')}: {why}")


@register_check(ENVIRONMENTS, "D4RL physics", needed=True)
def physics() -> DoctorFinding:
    """Steps of a D4RL environment, repeated."""
    tried = run_isolated(REPLAY, timeout=PROGRAM_SECONDS)
    if not tried.fine:
        fix = or_unset_gl(f"pip install --force-reinstall '{MUJOCO}'")
        return DoctorFinding(State.BROKEN, f"no environment can be made: {tried.trouble}", fix)
    steps, error = tried.output.split()[-2:]
    text = f"walker2d: {steps} steps of MuJoCo 2.1.0 repeated, largest error {float(error):.0e}"
    if float(error) < EXACT:
        return DoctorFinding(State.OK, text)
    return DoctorFinding(State.BROKEN, f"{text}: scores would not be D4RL's", f"pip install '{MUJOCO}'")


def or_unset_gl(fix: str) -> str:
    """MuJoCo cannot be imported where $MUJOCO_GL names what is not there."""
    return f"unset MUJOCO_GL, or {fix}" if os.environ.get("MUJOCO_GL") else fix


def largest_error(law: Any = legacy_inertia) -> tuple[int, float]:
    """How many recorded steps are repeated by a physics law, and the largest error of observations and rewards."""
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


PEN = """
import warnings
warnings.simplefilter("ignore")
import gymnasium, gymnasium_robotics
gymnasium.register_envs(gymnasium_robotics)
env = gymnasium.make("AdroitHandPen-v1", disable_env_checker=True)
env.reset(seed=0)
env.step(env.action_space.sample())
"""


@register_check(ENVIRONMENTS, "pen, kitchen")
def robotics() -> DoctorFinding:
    """A step of pen."""
    found = find_extra("robotics", "pen can be stepped")
    if found.state is State.OK and not (tried := run_isolated(PEN, timeout=PROGRAM_SECONDS)).fine:
        return DoctorFinding(
            State.BROKEN, tried.trouble, or_unset_gl("pip install --force-reinstall gymnasium-robotics")
        )
    return found


@register_check(ENVIRONMENTS, "original stack")
def original_stack() -> DoctorFinding:
    """D4RL's own environments, in their own Python."""
    try:
        python = legacy_python()
    except ConfigError as error:
        text, _, fix = str(error).partition(": ")
        return DoctorFinding(State.MISSING, f"{text} (--env-backend d4rl)", fix.partition(";")[0])
    command = [str(python), "-c", "import mujoco_py, gym; print(gym.__version__)"]
    tried = attempt_command(command, timeout=PROGRAM_SECONDS, env=worker_environment(python))
    if not tried.fine:
        return DoctorFinding(State.BROKEN, f"{python}: {tried.trouble}", "rm -r .venv-legacy; make legacy")
    return DoctorFinding(State.OK, f"gym {tried.output.split()[-1]} and mujoco-py in {python.parent.parent}")


def _drawing(way: OpenGL) -> DoctorFinding:
    """One picture."""
    tried = way.draws()
    chosen = f", which {VARIABLE} chooses" if os.environ.get(VARIABLE, "").lower() == way.value else ""
    if tried.fine:
        return DoctorFinding(State.OK, f"draws MuJoCo's pictures{chosen}")
    shown = any(map(os.environ.get, way.wants)) or not way.wants
    trouble = tried.trouble if shown else "there is no display"
    return DoctorFinding(State.BROKEN if chosen else State.MISSING, f"cannot draw ({trouble}){chosen}", way.fix)


for _way in GL_BACKENDS:
    register_check(PICTURES, _way.title)(lambda way=_way: _drawing(way))  # type: ignore[misc]
