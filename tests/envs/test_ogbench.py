"""OGBench's environments: sizes and limits as registered, episodes that repeat, success as reward, and its timing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dqlab.config import gin_files
from dqlab.config.gin_state import operative_parameters
from dqlab.envs import make_env, tasks
from dqlab.envs.backend import physics_of
from dqlab.envs.ogbench_tasks import BENCHMARK, FACTS, dataset_of, environment_of
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.build import check_experiment

ogbench = pytest.importorskip("ogbench")
pytest.importorskip("dm_control")

OWN = [entry.item for entry in tasks if entry.item.benchmark == BENCHMARK]
CUBE = tasks.get("cube-single-play-singletask-v0")


def test_there_are_five_tasks_and_a_default_one_for_each_set() -> None:
    assert len(OWN) == 6 * 47
    assert dataset_of("cube-single-play-singletask-task3-v0") == dataset_of(CUBE.name) == "cube-single-play-v0"
    assert environment_of("humanoidmaze-giant-stitch-singletask-task5-v0") == "humanoidmaze-giant"


@pytest.mark.parametrize("environment", FACTS["environments"])
def test_limits_are_as_registered(environment: str) -> None:
    import gymnasium

    for task in (task for task in OWN if environment_of(task.name) == environment):
        number = task.name.partition("-singletask")[2]
        registered = gymnasium.spec(f"{environment}-singletask{number}")
        assert registered.max_episode_steps == task.episode_limit
        assert registered.kwargs["success_timing"] == "pre"


SOME = ("pointmaze-teleport-navigate", "humanoidmaze-medium-stitch", "antsoccer-arena-navigate", "cube-double-play")
SOME += ("scene-play", "puzzle-4x5-play")


@pytest.mark.parametrize("name", SOME)
def test_episodes_are_functions_of_the_seed(name: str) -> None:
    """Of the seed alone, whatever numpy's global generator has done, which is left as it was: of default tasks."""
    task = tasks.get(f"{name}-singletask-v0")
    env, other = make_env(task), make_env(task)
    starts = [env.reset(seed=seed)[0] for seed in (1, 2)]
    other.reset(seed=7)
    other.step(np.ones(task.action_dim))
    np.random.seed(3)
    before = np.random.get_state()[1:3]
    assert np.array_equal(other.reset(seed=2)[0], starts[1])
    assert not np.array_equal(starts[0], starts[1])
    default = FACTS["environments"][environment_of(task.name)]["default_task"]
    assert env.unwrapped.cur_task_id == default
    assert f"task {default}, the default" in tasks.entry(task.name).summary
    for _ in range(3):
        steps = [each.step(np.full(task.action_dim, 0.5)) for each in (env, other)]
        assert np.array_equal(steps[0][0], steps[1][0])
    after = np.random.get_state()[1:3]
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_teleports_are_functions_of_the_seed() -> None:
    task, ends = tasks.get("pointmaze-teleport-navigate-singletask-v0"), list[list[Any]]()
    for copy, seed in ((0, 1), (1, 1), (2, 2)):
        env = make_env(task)
        env.reset(seed=seed)
        np.random.seed(copy)
        ends.append([])
        for _ in range(5):
            env.unwrapped.set_xy(np.array(env.unwrapped.ij_to_xy((4, 6))))  # into one
            env.step(np.zeros(2))
            ends[-1].append(tuple(env.unwrapped.get_xy()))
    assert ends[0] == ends[1] != ends[2]


def solve(env: Any) -> None:
    """Put the cube where it shall be."""
    inner = env.unwrapped
    inner.data.joint("object_joint_0").qpos[:3] = inner.data.mocap_pos[0]


@pytest.mark.parametrize(("timing", "steps"), [("post", 1), ("pre", 2)])
def test_an_episode_returns_its_success(timing: str, steps: int) -> None:
    """`post` judges the state that a step leads to, `pre` the one that it began in."""
    gin_files.load_gin([], [f"OGBench.success_timing='{timing}'"])
    env, still = make_env(CUBE), np.zeros(CUBE.action_dim)
    env.reset(seed=0)
    assert env.step(still)[1:4] == (0.0, False, False)
    solve(env)
    given = [env.step(still)[1:4] for _ in range(steps)]
    assert given == [(0.0, False, False)] * (steps - 1) + [(1.0, True, False)]
    assert CUBE.score(sum(reward for reward, *_ in given)) == 100.0


def test_the_timing_is_on_record() -> None:
    assert physics_of(CUBE, "gymnasium", "mujoco210") == "the environment's own, success_timing 'pre'"
    gin_files.load_gin([], [f"Experiment.task='{CUBE.name}'", "OGBench.success_timing='post'"])
    check_experiment(Experiment())
    assert CUBE.condition == "success_timing 'post'"
    assert operative_parameters()["envs.OGBench.success_timing"] == "post"
    assert tasks.get("walker2d-medium-v2").condition == tasks.get("antmaze-umaze-v0").condition == ""


def test_another_timing_shows_before_training() -> None:
    gin_files.load_gin([], [f"Experiment.task='{CUBE.name}'", "OGBench.success_timing='after'"])
    with pytest.raises(ConfigError, match="OGBench.success_timing must be 'pre' or 'post', not 'after'"):
        check_experiment(Experiment())


def test_robot_arms_share_compiled_models_and_no_state() -> None:
    env, other = make_env(CUBE), make_env(CUBE)
    env.reset(seed=0)
    other.reset(seed=0)
    assert env.unwrapped.model is other.unwrapped.model
    before = other.unwrapped.data.qpos.copy()
    env.step(np.ones(CUBE.action_dim))
    assert np.array_equal(other.unwrapped.data.qpos, before)
    assert not np.array_equal(env.unwrapped.data.qpos, before)
