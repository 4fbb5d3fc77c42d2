"""D4RL's environments as D4RL builds them, with stand-ins for what its packages import and do not need."""

from __future__ import annotations

import collections
import collections.abc
import importlib
import os
import sys
import tempfile
import types
from importlib.metadata import version
from typing import Any

SUITES = ("gym_mujoco", "locomotion", "hand_manipulation_suite", "kitchen", "pointmaze")
PACKAGES = ("d4rl", "gym", "mujoco-py", "numpy")


def import_d4rl() -> None:
    """Register D4RL's environments with gym."""
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    os.environ["D4RL_DATASET_DIR"] = tempfile.gettempdir()  # made when D4RL is imported; no dataset is read here
    _stand_in_for_mjrl()
    _stand_in_for_dm_control()
    vars(collections).setdefault("Mapping", collections.abc.Mapping)  # the kitchen's; gone since Python 3.10
    for suite in SUITES:
        importlib.import_module(f"d4rl.{suite}")
    _kitchen_on_mujoco_py()


def _stand_in_for_mjrl() -> None:
    """The hand suite derives from mjrl's MujocoEnv, which is not on PyPI: gym's does the same."""
    from gym.envs.mujoco import mujoco_env

    _pretend("mjrl.envs", mujoco_env=mujoco_env)
    sys.modules["mjrl.envs.mujoco_env"] = mujoco_env


def _stand_in_for_dm_control() -> None:
    """The kitchen's module imports dm_control's engine to draw pictures, which D4RL has switched off."""
    _pretend("dm_control.mujoco.engine")


def _kitchen_on_mujoco_py() -> None:
    module: Any = importlib.import_module("d4rl.kitchen.adept_envs.mujoco_env")
    module.USE_DM_CONTROL = False


def _pretend(path: str, **contents: Any) -> None:
    """Empty modules along a dotted path; the last one has these contents."""
    parent = None
    for depth in range(path.count(".") + 1):
        name = ".".join(path.split(".")[: depth + 1])
        module = sys.modules.setdefault(name, types.ModuleType(name))
        if parent is not None:
            setattr(parent, name.rpartition(".")[2], module)
        parent = module
    vars(parent).update(contents)


def versions() -> dict[str, str]:
    """Versions of what is stepped here, by name."""
    import mujoco_py

    number = str(mujoco_py.cymj._mj_version())  # 210: mujoco-py says it nowhere else, and is never released again
    found = {name: version(name) for name in PACKAGES}
    return {**found, "mujoco": ".".join(number), "python": sys.version.split()[0]}


def build(task: str) -> Any:
    """A gym environment, with D4RL's episode limit; the file that AntMaze leaves behind is removed."""
    import gym

    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            env = gym.make(task)
        finally:
            tempfile.tempdir = before
    env.reset()  # so that a state can be set at once
    return env


def core(env: Any) -> Any:
    """D4RL's own environment, inside gym's wrappers and D4RL's (whose `seed` does not reach what it wraps)."""
    inner = env.unwrapped
    while "_wrapped_env" in vars(inner):
        inner = vars(inner)["_wrapped_env"]
    return inner
