"""Steps D4RL's environments for another process: `python -m d4rl_worker`, in the original stack's own Python.

It imports numpy, gym, mujoco-py and D4RL, nothing of dqlab's. One JSON object a line: requests from standard input,
answers to standard output (docs/legacy.md).
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import json
import os
import sys
import tempfile
import types
from importlib.metadata import version
from typing import Any
from unittest import mock

import numpy as np

PROTOCOL = 1


def import_d4rl() -> dict[str, str]:
    """Register D4RL's environments with gym; returns versions of what is stepped here, by name."""
    os.environ["D4RL_SUPPRESS_IMPORT_ERROR"] = "1"
    os.environ["D4RL_DATASET_DIR"] = tempfile.gettempdir()  # made when D4RL is imported; no dataset is read here
    from gym.envs.mujoco import mujoco_env

    sys.modules["mjrl.envs.mujoco_env"] = mujoco_env  # the hands', of mjrl, which is not on PyPI: gym's does the same
    _pretend("mjrl", "mjrl.envs", "mjrl.envs.mujoco_env")
    # the kitchen draws pictures with it, which D4RL has switched off
    _pretend("dm_control", "dm_control.mujoco", "dm_control.mujoco.engine")
    vars(collections).setdefault("Mapping", collections.abc.Mapping)  # the kitchen's; gone since Python 3.10
    for suite in ("gym_mujoco", "locomotion", "hand_manipulation_suite", "kitchen", "pointmaze"):
        importlib.import_module(f"d4rl.{suite}")
    kitchen: Any = importlib.import_module("d4rl.kitchen.adept_envs.mujoco_env")
    kitchen.USE_DM_CONTROL = False  # but mujoco-py
    number = str(importlib.import_module("mujoco_py").cymj._mj_version())  # 210: it is said nowhere else, for good
    found = {name: version(name) for name in ("d4rl", "gym", "mujoco-py", "numpy")}
    return {**found, "mujoco": ".".join(number), "python": sys.version.split()[0]}


def _pretend(*names: str) -> None:
    """Stand-ins for what D4RL imports and does not need: empty modules, each an attribute of the one before it."""
    modules = [sys.modules.setdefault(name, types.ModuleType(name)) for name in names]
    for parent, module, name in zip(modules, modules[1:], names[1:]):
        setattr(parent, name.rpartition(".")[2], module)


class Copy:
    """An environment, by D4RL's name; `core` is D4RL's own, inside wrappers whose `seed` does not reach it."""

    def __init__(self, task: str, noise: bool) -> None:
        import gym

        with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
            self.env = gym.make(task)  # AntMaze leaves a file behind
        self.env.reset()  # so that a state can be set at once
        self.core = self.env.unwrapped
        while "_wrapped_env" in vars(self.core):
            self.core = vars(self.core)["_wrapped_env"]
        if hasattr(self.core, "robot") and not noise:  # of the kitchen's observations, and of its velocity control
            self.core.robot.robot_pos_noise_amp[:] = self.core.robot.robot_vel_noise_amp[:] = 0.0

    def reset(self, seed: int, group: int) -> list[float]:
        """Begin an episode.

        AntMaze's goal is drawn as D4RL draws it, from numpy's global generator: where it does so when it builds an
        environment, from the group's number; where it does so at each reset (-v2), from the episode's.
        """
        if hasattr(self.core, "set_target_goal"):
            np.random.seed((seed if self.core.v2_resets else group) % 2**32)
            if not self.core.v2_resets:
                self.core.set_target_goal()
        self.core.seed(seed)
        return plain(self.env.reset())

    def step(self, action: list[float]) -> tuple[list[float], float, bool, bool]:
        """Observation, reward, whether the environment ended the episode, whether it is over by that or its limit."""
        controls = np.array(action, dtype=float)
        if controls.shape != self.env.action_space.shape or not np.isfinite(controls).all():
            raise ValueError(f"an action is not {self.env.action_space.shape[0]} finite numbers")
        observation, reward, done, info = self.env.step(controls)
        terminated = bool(done) and not info.get("TimeLimit.truncated", False)
        return plain(observation), float(reward), terminated, bool(done)


def plain(values: Any) -> list[float]:
    """A flat list of Python floats: JSON writes them so that reading gives the same numbers."""
    return [float(value) for value in np.asarray(values, dtype=float).ravel()]


class Service:
    """What can be asked for; each method is a request of its name, its arguments are the request's fields."""

    def __init__(self) -> None:
        self.copies: list[Any] = []
        self.made: Any = None

    def make(self, task: str, count: int, noise: bool = True) -> dict[str, Any]:
        """Have `count` environments of a task."""
        if (task, noise) != self.made:
            self.copies, self.made = [], (task, noise)
        while len(self.copies) < count:
            self.copies.append(Copy(task, noise))
        env = self.copies[0].env
        sizes = {"state_dim": env.observation_space.shape[0], "action_dim": env.action_space.shape[0]}
        return {**sizes, "episode_limit": env.spec.max_episode_steps}

    def reset(self, seeds: list[int], groups: list[int]) -> dict[str, Any]:
        """Begin episodes in environments 0, 1, ..."""
        pairs = enumerate(zip(seeds, groups))
        return {"observations": [self.copies[number].reset(seed, group) for number, (seed, group) in pairs]}

    def step(self, which: list[int], actions: list[list[float]]) -> dict[str, Any]:
        """Observation, reward and ends of each environment."""
        columns = zip(*[self.copies[number].step(action) for number, action in zip(which, actions)])
        return dict(zip(("observations", "rewards", "terminated", "over"), map(list, columns)))


def main(service: Service) -> int:
    """Serve until the input closes; errors are answers too."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # D4RL prints
    try:
        greeting = {"ok": True, "protocol": PROTOCOL, "versions": import_d4rl()}
    except Exception as error:
        greeting = {"ok": False, "protocol": PROTOCOL, "kind": type(error).__name__, "error": str(error)}
    print(json.dumps(greeting), file=out, flush=True)
    for line in sys.stdin if greeting["ok"] else ():
        try:
            request = json.loads(line)
            answer = {"ok": True, **getattr(service, request.pop("do"))(**request)}
        except Exception as error:  # whatever D4RL raises is the caller's to hear
            answer = {"ok": False, "kind": type(error).__name__, "error": str(error)}
        print(json.dumps(answer), file=out, flush=True)
    return 0 if greeting["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(Service()))
