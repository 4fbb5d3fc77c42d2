"""OGBench's environments as functions of seeds; importing this module registers `dqlab/OGBench-v0`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import gymnasium
import mujoco
import numpy as np
import ogbench

from dqlab.envs.physics import Array
from dqlab.envs.tasks import OGBench

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of glfw, that there is no display
    from dm_control import mjcf

ROBOT_ARMS = ("cube", "scene", "puzzle")  # what names of environments with a robot arm begin with


class SeededOGBench(gymnasium.Wrapper):  # type: ignore[misc]
    """An environment of OGBench's whose episodes are functions of the seed and the actions, without a step limit.

    OGBench's mazes, its teleports and its oracles draw from numpy's global generator, and resets from action spaces
    that nobody has seeded. Here each environment has states of both of its own. Its name is that of a data set, with
    `singletask` or without, as `ogbench.make_env_and_datasets` takes it.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        self._state = np.random.RandomState().get_state()
        self._draws = "teleport" in name  # in steps: to ask numpy for its state and back takes longer than a point's
        with self.own_numbers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spaces, that float64 becomes float32
            if name.startswith(ROBOT_ARMS):
                compiled = _compiled(name, tuple(arguments.items()))
                env = copy.deepcopy(compiled, dict(_kept(compiled)))  # an episode writes nothing into it but colours
                # these make a new space, with a generator of its own, wherever they draw an action: the class of this
                # one has one space. Without that tests/envs/test_ogbench.py sees resets with one seed that differ
                env.__class__ = type(type(env).__name__, (type(env),), {"action_space": env.action_space})
            else:
                env = _made(name, **arguments)
            super().__init__(env)
            self.observation_space, self.action_space = env.observation_space, env.action_space

    @contextmanager
    def own_numbers(self) -> Iterator[None]:
        """Within this, numpy's global generator is in this environment's state."""
        theirs = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(theirs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self.action_space.seed(seed)
        with self.own_numbers():
            return self.env.reset(seed=seed)  # type: ignore[no-any-return]

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        with self.own_numbers() if self._draws else nullcontext():
            return self.env.step(action)  # type: ignore[no-any-return]


def _made(name: str, **arguments: Any) -> Any:
    return ogbench.make_env_and_datasets(name, env_only=True, disable_env_checker=True, **arguments).unwrapped


@lru_cache(maxsize=2)
def _compiled(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """A robot arm's environment, whose models are compiled: that takes a second, and they 170 MB."""
    env = _made(name, **dict(arguments))
    env.reset()
    return env


def _kept(value: Any) -> Iterator[tuple[int, Any]]:
    """What stands for parts of an environment in its copy, by their ids: models themselves, new data of theirs."""
    if isinstance(value, (mjcf.Element, mujoco.MjModel)):
        yield id(value), value
    elif isinstance(value, mujoco.MjData):
        yield id(value), mujoco.MjData(value.model)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _kept(each)
    elif type(value).__module__.startswith("ogbench."):
        for each in vars(value).values():
            yield from _kept(each)


class SuccessOGBench(SeededOGBench):
    """A single task of OGBench's whose reward is its success: an episode returns 1 where it is solved, which ends it.

    Its own reward is -1 (mazes), or minus the number of parts that are not in place, a step; nobody scores that.
    """

    def __init__(self, name: str, success_timing: str = OGBench.success_timing, **rendering: Any) -> None:
        super().__init__(name, success_timing=success_timing, **rendering)
        if name.startswith(ROBOT_ARMS):  # which draw, and do not say so
            self.metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(info["success"]), terminated, truncated, info


class RecordedOGBench(SeededOGBench):
    """A robot arm as its data are collected: goals are set one after the other, and none ends an episode.

    The reward is 0: rewards are made for a task when the data are read. Scripted oracles know the goal from `info`,
    what the last reset or step has said.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, mode="data_collection", terminate_at_goal=False)
        self.info: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        observation, self.info = super().reset(seed=seed)
        return observation, self.info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; `info["recorded"]` is what is kept of the state before it, beside positions and velocities."""
        observation, _, _, truncated, self.info = super().step(action)
        buttons = self.info.get("prev_button_states")
        recorded = {} if buttons is None else {"button_states": buttons}
        return observation, 0.0, False, truncated, {**self.info, "recorded": recorded}


gymnasium.register("dqlab/OGBench-v0", entry_point="dqlab.envs.ogbench_env:SuccessOGBench")
