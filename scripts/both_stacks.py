"""Copies of a task's environment whose states can be read and set: in today's packages, and in D4RL's own stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqlab.envs import make_env
from dqlab.envs.backend import step_environment
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.envs.tasks import Task

STATES = Path(__file__).with_name("d4rl_states.py")
"""The worker of D4RL's own stack that has and sets states."""
State = dict[str, Any]
"""`qpos`, `qvel`; where there are such: a hand's places, `goal` (mazes), `remaining` (kitchen)."""


def state_of(env: Any) -> State:
    """All that decides what follows."""
    inner = env.unwrapped
    return {"qpos": inner.data.qpos.tolist(), "qvel": inner.data.qvel.tolist(), **_hidden(inner)}


def set_state(env: Any, state: State) -> NDArray[np.float64]:
    """Forget the past (contacts, warm starts, time), stand in this state; the observation of it."""
    import mujoco

    inner = env.unwrapped
    mujoco.mj_resetData(inner.model, inner.data)
    inner.data.qpos[:], inner.data.qvel[:] = state["qpos"], state["qvel"]
    _set_hidden(inner, state)
    mujoco.mj_forward(inner.model, inner.data)
    return np.array(_observe(inner), dtype=np.float64)


def _places(env: Any) -> dict[str, NDArray[np.float64]]:
    """Views of what of its model a hand draws at a reset, by D4RL's names."""
    positions, hand = env.model.body_pos, type(env).__name__
    if hand == "AdroitPen":
        return {"desired_orien": env.model.body_quat[env.target_obj_body_id]}
    if hand == "AdroitDoor":
        return {"door_body_pos": positions[env.door_body_id]}
    if hand == "AdroitHammer":
        return {"board_pos": positions[env.target_body_id]}
    if hand == "AdroitRelocate":
        return {"obj_pos": positions[env.obj_body_id], "target_pos": env.model.site_pos[env.target_obj_site_id]}
    return {}


def _hidden(env: Any) -> State:
    found: State = {name: place.tolist() for name, place in _places(env).items()}
    if hasattr(env, "maze"):
        found["goal"] = env.goal.tolist()
    if hasattr(env, "open_goals"):
        found["remaining"] = sorted(env.open_goals)
    return found


def _set_hidden(env: Any, state: State) -> None:
    for name, place in _places(env).items():
        place[:] = state[name]
    if "goal" in state:
        env.goal = np.array(state["goal"])
    if "remaining" in state:
        env.open_goals = set(state["remaining"])


def _observe(env: Any) -> Any:
    """By whichever name it has; the kitchen's also notes where its velocity control starts from."""
    named = (getattr(env, name, None) for name in ("_observe", "_get_obs", "state_vector"))
    return next(function for function in named if function is not None)()


Array = NDArray[np.float64]


class StackStep(NamedTuple):
    """What one step gave to n copies.

    Attributes:
        observation (n, S), reward (n,).
        terminated (n,), over (n,): the environment ended the episode; that, or its step limit.
    """

    observation: Array
    reward: Array
    terminated: NDArray[np.bool_]
    over: NDArray[np.bool_]


class D4RLStack:
    """n copies of a task's environment in D4RL's own stack.

    Args:
        task: whose environment.
        copies: n.
        noise: whether the kitchen observes with noise.

    Raises:
        ConfigError: it is not installed. StackError: its process fails.
    """

    def __init__(self, task: Task, copies: int, noise: bool = True) -> None:
        self._worker, self._all = Worker(legacy_python(), program=STATES), list(range(copies))
        self._worker.ask("make", task=task.name, count=copies, noise=noise)

    def reset(self, seeds: Sequence[int]) -> Array:
        """Begin an episode in every copy; observations (n, S)."""
        return np.array(self._worker.ask("reset", seeds=list(seeds), groups=list(seeds))["observations"])

    def states(self) -> list[State]:
        """The states of all copies."""
        return list(self._worker.ask("get_state", which=self._all)["states"])

    def set_states(self, states: Sequence[State]) -> Array:
        """Put every copy into a state; observations (n, S)."""
        return np.array(self._worker.ask("set_state", which=self._all, states=list(states))["observations"])

    def step(self, actions: Array) -> StackStep:
        """Step every copy by actions (n, A), also those whose episode is over."""
        got = self._worker.ask("step", which=self._all, actions=actions.tolist())
        return StackStep(*(np.array(got[name]) for name in ("observations", "rewards", "terminated", "over")))

    def close(self) -> None:
        """End its process."""
        self._worker.close()


class GymnasiumStack:
    """The same in today's packages, in this process; methods as of `D4RLStack`.

    Args:
        task, copies, noise: as in `D4RLStack`.
        physics: a name from the `physics` registry.
    """

    def __init__(self, task: Task, copies: int, noise: bool = True, physics: str = "mujoco210") -> None:
        silent = {"noise": 0.0} if "goals" in task.env_kwargs and not noise else {}
        self._envs: list[Any] = [make_env(task, physics, **silent) for _ in range(copies)]
        self.reset(range(copies))  # so that a state can be set at once

    def reset(self, seeds: Sequence[int]) -> Array:
        begun = zip(self._envs, seeds, strict=True)
        return np.array([env.reset(seed=seed, options={"group": seed})[0] for env, seed in begun])

    def states(self) -> list[State]:
        return [state_of(env) for env in self._envs]

    def set_states(self, states: Sequence[State]) -> Array:
        return np.array([set_state(env, state) for env, state in zip(self._envs, states, strict=True)])

    def step(self, actions: Array) -> StackStep:
        each = [step_environment(env, action) for env, action in zip(self._envs, actions, strict=True)]
        return StackStep(*(np.array(column) for column in zip(*each, strict=True)))

    def close(self) -> None:
        for env in self._envs:
            env.close()


EnvironmentStack = D4RLStack | GymnasiumStack


def physical(states: Sequence[State]) -> Array:
    """Positions and velocities (n, nq + nv)."""
    return np.array([[*state["qpos"], *state["qvel"]] for state in states])


NEAR = 0.75
"""m from ant or ball to its goal, which is reached at 0.5."""


def states_near_goals(states: Sequence[State], observations: Array, seed: int = 0) -> list[State]:
    """The same states with a maze's goal 0.75 m from ant or ball, and the kitchen's objects on their way.

    An object is put 50 to 100% of the way from where it is to where it should be, so that some goals are reached at
    once, others only by what noise and motion add.

    Args:
        states, observations (n, S): of n environments; the kitchen's goal is the second half of its observation.
        seed: of the directions, and of how far the objects are.
    """
    draw = np.random.default_rng(seed)
    return [_near(state, seen, draw) for state, seen in zip(states, observations, strict=True)]


def _near(state: State, seen: Array, draw: np.random.Generator) -> State:
    position = np.array(state["qpos"])
    if "goal" in state:
        angle = draw.uniform(0.0, 2.0 * np.pi)
        return {**state, "goal": (position[:2] + NEAR * np.array([np.cos(angle), np.sin(angle)])).tolist()}
    if "remaining" in state:
        goal = seen[len(position) :]
        moved = position + draw.uniform(0.5, 1.0) * (goal - position)
        return {**state, "qpos": np.where(goal != 0.0, moved, position).tolist()}
    return state
