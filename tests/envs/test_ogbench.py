"""OGBench's environments: sizes and limits as registered, episodes that repeat, success as reward, and its timing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import ROOT, Run

from dqlab.config import gin_files
from dqlab.envs import make_env, tasks
from dqlab.envs.tasks import BENCHMARK, OGBENCH, dataset_of, environment_of
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_experiment

ogbench = pytest.importorskip("ogbench")
pytest.importorskip("dm_control")

OWN = [entry.item for entry in tasks if entry.item.benchmark == BENCHMARK]
CUBE = tasks.get("cube-single-play-singletask-v0")
POINT = tasks.get("pointmaze-medium-navigate-singletask-v0")
"""A point in a maze takes the least to step."""


def test_there_are_five_tasks_and_a_default_one_for_each_set() -> None:
    assert len(OWN) == 6 * 47
    families = {task.name: tasks.entry(task.name).family.replace("[-task1 to 5]", "(-task[1-5])?") for task in OWN}
    assert all(re.fullmatch(family, name) for name, family in families.items())
    assert dataset_of("cube-single-play-singletask-task3-v0") == dataset_of(CUBE.name) == "cube-single-play-v0"
    assert environment_of("humanoidmaze-giant-stitch-singletask-task5-v0") == "humanoidmaze-giant"


@pytest.mark.parametrize("environment", OGBENCH["environments"])
def test_limits_are_as_registered(environment: str) -> None:
    for task in (task for task in OWN if environment_of(task.name) == environment):
        number = task.name.partition("-singletask")[2]
        registered = gymnasium.spec(f"{environment}-singletask{number}")
        assert registered.max_episode_steps == task.episode_limit
        assert registered.kwargs["success_timing"] == "pre"


@pytest.mark.parametrize("name", ["pointmaze-teleport-navigate", "antsoccer-arena-navigate", "puzzle-4x5-play"])
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
    default = OGBENCH["environments"][environment_of(task.name)]["default_task"]
    assert env.unwrapped.cur_task_id == default
    assert f"task {default}, the default" in tasks.entry(task.name).summary
    for _ in range(3):
        assert np.array_equal(*(each.step(np.full(task.action_dim, 0.5))[0] for each in (env, other)))
    np.testing.assert_equal(np.random.get_state()[1:3], before)


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


@pytest.mark.parametrize(("timing", "steps"), [("post", 1), ("pre", 2)])
def test_an_episode_returns_its_success(timing: str, steps: int) -> None:
    """`post` judges the state that a step leads to, `pre` the one that it began in."""
    gin_files.load_gin([], [f"OGBench.success_timing='{timing}'"])
    env, still = make_env(CUBE), np.zeros(CUBE.action_dim)
    env.reset(seed=0)
    assert env.step(still)[1:4] == (0.0, False, False)
    data = env.unwrapped.data
    data.joint("object_joint_0").qpos[:3] = data.mocap_pos[0]  # the cube is where it shall be
    given = [env.step(still)[1:4] for _ in range(steps)]
    assert given == [(0.0, False, False)] * (steps - 1) + [(1.0, True, False)]
    assert CUBE.score(sum(reward for reward, *_ in given)) == 100.0


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


SMALLEST = ["Training.execution='eager'", "Training.batch_size=8", "Training.eval_every=20", "Training.eval_episodes=2"]
SMALLEST += ["MLPDenoiser.hidden_dim=16", "MeanEnsemble.hidden_dim=16", "OneStepFlowPolicy.n_steps=2"]
SMALLEST += ["Tracking.mlflow=False", f"Experiment.task='{POINT.name}'", "load_dataset.sources=('ogbench:data',)"]


def test_a_run_and_its_marks(tmp_path: Path, in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its data to its score, of two episodes each, and what stands beside it."""
    short = replace(tasks.entry(POINT.name), item=replace(POINT, episode_limit=20))
    monkeypatch.setitem(tasks.entries, POINT.name, short)
    draw = np.random.default_rng(0)
    qpos = draw.uniform(0, 20, (300, 2)).astype(np.float32)
    arrays = {"observations": qpos, "actions": draw.uniform(-1, 1, (300, 2)).astype(np.float32), "qpos": qpos}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / f"{dataset_of(POINT.name)}.npz", **arrays, terminals=np.arange(300) % 100 == 99)

    def said(*args: str) -> str:
        done = in_process(*args)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    for name, timing in (("run", "pre"), ("post", "post")):
        more = ["--set", *SMALLEST, f"OGBench.success_timing='{timing}'"]
        said("train", "--gin", str(ROOT / "gin" / "ogbench" / "fql.gin"), "--out", name, "--steps", "20", *more)
    facts, summary = (json.loads((tmp_path / "run" / name).read_text()) for name in ("run.json", "seed-0/summary.json"))
    marks = "not OGBench's data; success rate in %; success_timing 'pre'"
    assert facts["caveat"] == summary["caveat"] == marks
    assert facts["physics"] == "the environment's own, success_timing 'pre'"
    assert facts["data"]["score_mean"] is None
    assert "ogbench" in facts["versions"]
    assert {row["score_mean"] for row in summary["evaluations"]} <= {0.0, 50.0, 100.0}
    assert "OGBench.success_timing = 'pre'" in (tmp_path / "run" / "config.gin").read_text()
    assert marks in said("runs", "show", "run")
    again = said("eval", "run", "--episodes", "1", "--set", "OGBench.success_timing='post'")
    assert ("'post'" in again, "'pre'" in again) == (True, False)
    assert "their scores do not compare" in said("compare", "run", "post")
