"""AntMaze and Maze2D: walls, starts, goals, rewards, as D4RL 1.1 has them; their dynamics: test_recordings.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from golden_steps import golden

from dqlab.config import gin_files
from dqlab.config.gin_state import operative_parameters
from dqlab.envs import make_env, tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.mazes import FREE, GOAL, LAYOUTS, MAZES, SCALE, START, WALL, draw_goal
from dqlab.errors import ConfigError

TASKS = {maze: tasks.get(f"antmaze-{maze}{kind}-v0") for maze, kind in zip(MAZES, ("", "-play", "-play"), strict=True)}


def made(maze: str = "umaze", **arguments: Any) -> Any:
    env = make_env(TASKS[maze], **arguments)
    env.reset(seed=0)
    return env.unwrapped


@pytest.mark.parametrize(("maze", "goal"), [("umaze", [0.0, 8.0]), ("medium", [20.0, 20.0]), ("large", [32.0, 24.0])])
def test_walls_and_goals_are_where_the_maze_has_them(maze: str, goal: list[float]) -> None:
    model, drawn = made(maze).model, MAZES[maze]
    assert drawn.centre(drawn.goal).tolist() == goal, "four metres a cell, from the start's"
    walls = [geom for geom in map(model.geom, range(model.ngeom)) if geom.name.startswith("wall")]
    assert {tuple(wall.pos[:2]) for wall in walls} == {tuple(drawn.centre(cell)) for cell in drawn.cells(WALL)}


def test_a_real_rows_rewards_fit_the_goals_law(shared: Path) -> None:
    """The excerpt's last three rows, and no other, are within 0.5 m of some goal that the law can draw."""
    with h5py.File(shared / "d4rl-excerpts" / "antmaze-medium-diverse-v0.hdf5") as file:
        places, rewards = file["observations"][:, :2].astype(float), file["rewards"][()]
        assert (file["terminals"][()] == (rewards > 0)).all()
    maze = MAZES["medium"]
    goals = maze.centre(maze.goal) + np.mgrid[0:1.5:0.02, 0:1.5:0.02].reshape(2, -1).T
    near = np.linalg.norm(places[:, None] - goals, axis=-1) <= 0.5
    assert (near == (rewards > 0)[:, None]).all(axis=0).any()


def test_the_start_and_the_goal_that_d4rl_draws() -> None:
    """Seed 7 of the environment's own generator; goals of NumPy's global one, seeded with 123456789."""
    recorded, env = golden("antmaze"), made("large")
    observation, info = env.reset(seed=7, options={"group": 123456789})
    assert np.abs(observation - recorded["start_7"]).max() < 1e-12
    assert (info["goal"] == recorded["goal_123456789"]).all()
    assert (env.goal == info["goal"]).all()
    assert (env.model.site("goal").pos[:2] == env.goal).all(), "pictures show it"


def test_a_group_shares_its_goal() -> None:
    environments = GymnasiumEnvironments(TASKS["medium"], "mujoco210")
    states = environments.reset([1, 2, 3], [5, 5, 6])
    goals = [tuple(env.unwrapped.goal) for env in environments.envs]
    assert goals[0] == goals[1] != goals[2]
    assert np.abs(states[0] - states[1]).max() > 1e-3
    again = environments.reset([3, 9, 2], [6, 5, 5])
    assert [tuple(env.unwrapped.goal) for env in environments.envs] == [goals[2], goals[0], goals[0]]
    assert (again[0] == states[2]).all()


def goals_of(env: Any, *seeds: Any, group: int | None = None) -> list[tuple[float, ...]]:
    return [tuple(env.reset(seed=seed, options={"group": group})[1]["goal"]) for seed in seeds]


def test_without_a_group_an_environment_keeps_its_goal_unless_gin_chooses_the_other_law() -> None:
    first = goals_of(make_env(TASKS["umaze"]), 1, 2, None)
    assert len(set(first)) == 1
    assert goals_of(make_env(TASKS["umaze"]), 1, 5) == first[:2]
    assert goals_of(make_env(TASKS["umaze"]), 2) != first[:1]
    gin_files.load_gin([], ["AntMaze.goal_law=per_episode"])
    env = make_env(TASKS["umaze"])
    assert len(set(goals_of(env, 1, 2, 3))) == 3
    assert goals_of(env, 1, group=5) == goals_of(env, 1, group=6)
    assert operative_parameters()["envs.AntMaze.goal_law"] == "per_episode"
    gin_files.load_gin([], ["AntMaze.goal_law=per_day"])
    with pytest.raises(ConfigError, match="goal_law must be 'per_environment' or 'per_episode', not 'per_day'"):
        make_env(TASKS["umaze"])


@pytest.mark.parametrize("maze", MAZES)
def test_goals_lie_where_one_can_walk(maze: str) -> None:
    free = np.array([MAZES[maze].centre(cell) for cell in MAZES[maze].cells(FREE + START + GOAL)])
    goals = np.array([draw_goal(MAZES[maze], np.random.default_rng(seed)) for seed in range(50)])
    assert np.abs(goals[:, None] - free).max(axis=-1).min(axis=-1).max() <= SCALE / 2


@pytest.mark.parametrize(("share", "reward"), [(1 - 1e-9, 1.0), (1 + 1e-9, 0.0)])
def test_reward_and_end_at_the_radius(share: float, reward: float) -> None:
    """The distance after the step counts: half a metre, in any direction."""
    env, start = made(), made().data.qpos.copy()
    env.set_state(start, np.zeros(14))
    arrived = env.step(np.zeros(8))[0][:2]
    for angle in (0.0, 1.0, 4.0):
        env.goal = arrived + 0.5 * share * np.array([np.cos(angle), np.sin(angle)])
        env.set_state(start, np.zeros(14))
        got = env.step(np.zeros(8))
        assert got[1:4] == (reward, reward == 1.0, False)
        assert (got[4]["goal"] == env.goal).all()


def test_nothing_else_ends_an_episode() -> None:
    """On its back, at the limit of 700 steps, far from the goal."""
    env = make_env(replace(TASKS["umaze"], episode_limit=5))
    env.reset(seed=0)
    qpos = env.unwrapped.data.qpos.copy()
    qpos[2], qpos[3:7] = 0.2, [0, 1, 0, 0]
    env.unwrapped.set_state(qpos, np.zeros(14))
    steps = [env.step(np.ones(8))[1:4] for _ in range(5)]
    assert steps == [(0.0, False, False)] * 4 + [(0.0, False, True)]


def test_actions_are_shares_of_30_newton_metres() -> None:
    env = made()
    env.step(np.array([-1.0, -0.5, 0.0, 0.25, 1.0, 2.0, -3.0, 0.1]))
    assert env.data.ctrl == pytest.approx([-30.0, -15.0, 0.0, 7.5, 30.0, 30.0, -30.0, 3.0])
    assert (env.model.actuator_gear[:, 0] == 1.0).all()


def ball(maze: str, dense: str = "", **changes: Any) -> Any:
    return make_env(replace(tasks.get(f"maze2d-{maze}{dense}-v{int(maze != 'open')}"), **changes))


@pytest.mark.parametrize("maze", LAYOUTS)
def test_mazes_are_closed_and_all_of_them_can_be_walked(maze: str) -> None:
    """From the goal one gets to every free cell; outside is wall."""
    rows = LAYOUTS[maze].rows
    assert {len(row) for row in rows} == {len(rows[0])}
    free = {(i, j) for i, row in enumerate(rows) for j, letter in enumerate(row) if letter != WALL}
    assert set(rows[0] + rows[-1]) | {row[side] for row in rows for side in (0, -1)} == {WALL}
    seen, ahead = set(), [next(cell for cell in free if rows[cell[0]][cell[1]] == GOAL)]
    while ahead:
        i, j = ahead.pop()
        seen.add((i, j))
        ahead += [cell for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)) if cell in free - seen]
    assert seen == free


def test_maze2ds_starts_are_everywhere() -> None:
    env = ball("umaze")
    starts = np.array([env.reset(seed=seed)[0] for seed in range(60)])
    cells = {tuple(cell) for cell in np.rint(starts[:, :2]).astype(int)}
    assert cells == {(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)}
    assert 0.05 < np.abs(starts[:, :2] - np.rint(starts[:, :2])).max() <= 0.1


@pytest.mark.parametrize("dense", ["", "-dense"])
def test_maze2ds_rewards_by_hand(dense: str) -> None:
    """Of the place after the step: within half a metre, or exp(-distance); nothing ends but the limit."""
    env, ends = ball("large", dense, episode_limit=4), []
    env.reset(seed=0)
    base = env.unwrapped
    for offset in (0.0, 0.3, -0.45, 0.55):
        base.set_state(base.goal + np.array([offset, 0.0]), np.zeros(2))
        observation, reward, terminated, truncated, _ = env.step(np.zeros(2))
        distance = np.linalg.norm(observation[:2] - (7, 9))
        assert distance == pytest.approx(abs(offset), abs=0.06)
        assert reward == pytest.approx(np.exp(-distance) if dense else float(distance <= 0.5))
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_maze2ds_speed_and_actions_are_clipped() -> None:
    env, finals = ball("open").unwrapped, []
    for speed, push in ((5.0, 1.0), (9.0, 7.0)):
        env.reset(seed=0)
        env.set_state(np.array([2.0, 1.0]), np.array([0.0, speed]))
        finals.append(env.step(np.array([push, 0.0]))[0])
    assert np.array_equal(*finals)
    assert finals[0][2] == pytest.approx(100.0 / (4000 / 3 * np.pi * 0.1**3) * 0.01, rel=0.01)
