"""Environments: dqlab's against plain Gymnasium's of the same models, both stepped in its vector environment.

What Gymnasium has is its own baseline, with the same masses written into the model. AntMaze is held against a bare
`MujocoEnv` around the same compiled model, which hands the state out and has no reward and no end. Both sides begin in
the same states, take the same actions and go through the same states. Pen and kitchen are held against
gymnasium-robotics' own environments, which start and observe otherwise. Nothing ends an episode, so that neither side
resets. `per second` counts steps of the environments.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from dqlab.envs import make_env, tasks
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task

gymnasium = pytest.importorskip("gymnasium")
mujoco = pytest.importorskip("mujoco")
mujoco_env = pytest.importorskip("gymnasium.envs.mujoco")

STEPS = 100

TASKS = {
    "walker2d": "walker2d-medium-v2",
    "hopper": "hopper-medium-v2",
    "halfcheetah": "halfcheetah-medium-v2",
    "antmaze": "antmaze-medium-play-v0",
    "pen": "pen-human-v1",
    "kitchen": "kitchen-mixed-v0",
}

ROBOTICS: dict[str, tuple[str, dict[str, Any]]] = {
    "pen": ("AdroitHandPen-v1", {}),
    "kitchen-burner": (
        "FrankaKitchen-v1",
        {"tasks_to_complete": ["microwave", "kettle", "bottom burner", "light switch"]},
    ),
}
"""gymnasium-robotics' environments, and their arguments, by robot."""


@dataclass(frozen=True)
class Case:
    robot: str
    copies: int

    @property
    def id(self) -> str:
        return f"{self.robot}-E{self.copies}"


def cases(quick: bool) -> list[Case]:
    return [Case(robot, copies) for robot in TASKS for copies in ((10,) if quick else (1, 10))]


def endless_task(name: str) -> Task:
    return replace(tasks.get(name), episode_limit=10**9)


def endless(env: Any) -> Any:
    """The environment, in which nobody falls; a goal of AntMaze's is too far to be reached in a benchmark."""
    if hasattr(env.unwrapped, "_terminate_when_unhealthy"):
        env.unwrapped._terminate_when_unhealthy = False
    return env


class Bare(mujoco_env.MujocoEnv):  # type: ignore[misc, name-defined]
    """Gymnasium's own base class around another environment's compiled model, beginning in its present state."""

    def __init__(self, other: Any) -> None:
        self._other, self.metadata = other, other.metadata
        super().__init__(other.fullpath, other.frame_skip, other.observation_space)
        self.start = other.data.qpos.copy(), other.data.qvel.copy()
        self._scale = self.model.actuator_ctrlrange[:, 1].copy()

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = copy.deepcopy(self._other.model)
        return model, mujoco.MjData(model)

    def reset_model(self) -> np.ndarray:
        self.set_state(*self.start)
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.do_simulation(self._scale * action, self.frame_skip)
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def plain(task: Task, env: Any) -> Any:
    """What one of dqlab's environments is held against."""
    if task.robot in ROBOTICS:
        name, arguments = ROBOTICS[task.robot]
        return gymnasium.make(
            f"gymnasium_robotics:{name}", max_episode_steps=task.episode_limit, disable_env_checker=True, **arguments
        )
    if ":" in task.env_id:
        return Bare(env.unwrapped)
    known = gymnasium.make(task.env_id, max_episode_steps=task.episode_limit, disable_env_checker=True)
    physics_laws.get("mujoco210")(known.unwrapped.model, task.body)
    return endless(known)


def vector(envs: Sequence[Callable[[], Any]]) -> Any:
    return gymnasium.vector.SyncVectorEnv(envs)


def play(envs: Any, actions: np.ndarray) -> Any:
    """The last observations (E, S) after actions (T, E, A)."""
    envs.reset(seed=0)
    for action in actions:
        observations = envs.step(action)[0]
    return copy.deepcopy(observations)


@pytest.fixture(autouse=True)
def no_pen_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("gymnasium_robotics"):
        monkeypatch.setattr("dqlab.envs.adroit.DROPPED", -np.inf)


def test_environments(measure: Callable[..., Any], case: Case) -> None:
    task = endless_task(TASKS[case.robot])
    if task.extra:
        pytest.importorskip("gymnasium_robotics")
    ours = vector([lambda: endless(make_env(task))] * case.copies)
    ours.reset(seed=0)
    theirs = vector([partial(plain, task, env) for env in ours.envs])
    shape = (STEPS, case.copies, task.action_dim)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape).astype(np.float32)
    if task.robot not in ROBOTICS:
        np.testing.assert_allclose(play(ours, actions[:10]), play(theirs, actions[:10]), atol=1e-4)
    measure(
        lambda: play(ours, actions),
        baseline=lambda: play(theirs, actions),
        parameters={"part": "environments", **asdict(case)},
        work=case.copies * STEPS,
    )
