"""AntMaze and Maze2D against D4RL 1.1 on genuine MuJoCo 2.1.0: dynamics, walls, starts, goals, rewards, real D4RL rows.

`golden/maze2d-medium*.npz`: 40 steps into a wall, and what D4RL's environments give after a reset with seed 5.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mujoco
import numpy as np
import pytest
from golden_steps import golden, replay

from dqlab.config import gin_files
from dqlab.config.gin_state import operative_parameters
from dqlab.envs import make_env, tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.mazes import GOAL, LAYOUTS, MAZES, WALL

TASKS = {maze: tasks.get(f"antmaze-{maze}{kind}-v0") for maze, kind in zip(MAZES, ("", "-play", "-play"), strict=True)}


def made(maze: str = "umaze", **arguments: Any) -> Any:
    env = make_env(TASKS[maze], **arguments)
    env.reset(seed=0)
    return env.unwrapped


def error(env: Any, name: str, run: str, steps: int) -> float:
    """Largest error of the state over the first steps of a recorded run."""
    recorded = {key.removeprefix(f"{run}_"): value for key, value in golden(name).items() if key.startswith(f"{run}_")}
    env.set_state(recorded["qpos0"], recorded["qvel0"])
    return replay(env, recorded, steps)


# dynamics


@pytest.mark.parametrize("maze", MAZES)
def test_dynamics_of_mujoco_210(maze: str) -> None:
    """Masses; runs on the floor; runs that begin with legs in a wall, axes and all; no callback is left behind."""
    recorded, env = golden("antmaze"), made(maze)
    assert np.abs(env.model.body_mass - recorded["body_mass"]).max() < 1e-12
    assert np.abs(np.sort(env.model.body_inertia) - np.sort(recorded["body_inertia"])).max() < 1e-12
    assert max(error(env, "antmaze", f"floor_{run}", 20) for run in (0, 1)) < 1e-9
    assert error(made(maze), "antmaze_walls", maze, 10) < 1e-9
    assert mujoco.get_mjcb_passive() is None


def test_the_corrections_are_what_makes_it_so() -> None:
    env = made()
    assert error(made(physics="modern"), "antmaze", "floor_0", 20) > 1e-3
    env.model.geom_user[:] = 0
    env.reset(seed=0)
    assert error(env, "antmaze_walls", "umaze", 10) > 1e-1


@pytest.mark.parametrize("run", [0, 1])
def test_a_run_of_mujoco_210(shared: Path, run: int) -> None:
    """300 steps; errors grow with time, as they do between two builds of MuJoCo."""
    recorded, env = np.load(shared / "mujoco210" / f"antmaze-umaze_{run}.npz"), made()
    for steps, near in ((100, 1e-9), (300, 1e-4)):
        env.set_state(recorded["qpos0"], recorded["qvel0"])
        assert replay(env, recorded, steps) < near


@pytest.mark.parametrize(("name", "maze"), [("umaze", "umaze"), ("medium-diverse", "medium")])
def test_every_row_of_real_d4rl(shared: Path, name: str, maze: str) -> None:
    """In AntMaze's files `infos/qpos` and `infos/qvel` are the state that follows a row's observation and action."""
    with h5py.File(shared / "d4rl-excerpts" / f"antmaze-{name}-v0.hdf5") as file:
        states, actions = file["observations"][()].astype(float), file["actions"][()]
        after = np.concatenate([file["infos/qpos"][()], file["infos/qvel"][()]], axis=1)
    env, worst = made(maze), 0.0
    for state, action, following in zip(states, actions, after, strict=True):
        env.set_state(state[:15], state[15:])
        worst = max(worst, float(np.abs(env.step(action)[0] - following).max()))
    assert worst < 1e-5  # the files are float32


def test_a_real_rows_rewards_fit_the_goals_law(shared: Path) -> None:
    """The excerpt's last three rows, and no other, are within 0.5 m of some goal that the law can draw."""
    with h5py.File(shared / "d4rl-excerpts" / "antmaze-medium-diverse-v0.hdf5") as file:
        places, rewards = file["observations"][:, :2].astype(float), file["rewards"][()]
        assert (file["terminals"][()] == (rewards > 0)).all()
    maze = MAZES["medium"]
    goals = maze.centre(maze.goal) + np.mgrid[0:1.5:0.02, 0:1.5:0.02].reshape(2, -1).T
    near = np.linalg.norm(places[:, None] - goals, axis=-1) <= 0.5
    assert (near == (rewards > 0)[:, None]).all(axis=0).any()


# mazes


@pytest.mark.parametrize("maze", MAZES)
def test_walls_are_where_the_maze_has_them(maze: str) -> None:
    """And the goal: four metres a cell, from the start's."""
    goals = {"umaze": [0.0, 8.0], "medium": [20.0, 20.0], "large": [32.0, 24.0]}
    assert MAZES[maze].centre(MAZES[maze].goal).tolist() == goals[maze]
    model = made(maze).model
    boxes = {tuple(model.geom_pos[g][:2]) for g in range(model.ngeom) if model.geom(g).name.startswith("wall")}
    assert boxes == {tuple(MAZES[maze].centre(cell)) for cell in MAZES[maze].cells(WALL)}


# starts, goals, rewards


def test_the_start_and_the_goal_that_d4rl_draws() -> None:
    """Seed 7 of the environment's own generator; goals of NumPy's global one, seeded with 123456789."""
    recorded, env = golden("antmaze"), made("large")
    observation, info = env.reset(seed=7, options={"group": 123456789})
    assert np.abs(observation - recorded["start_7"]).max() < 1e-12
    assert (info["goal"] == recorded["goal_123456789"]).all()
    assert (env.goal == info["goal"]).all()


def test_a_group_shares_its_goal() -> None:
    environments = GymnasiumEnvironments(TASKS["medium"], "mujoco210")
    states = environments.reset([1, 2, 3], [5, 5, 6])
    goals = [tuple(env.unwrapped.goal) for env in environments.envs]
    assert goals[0] == goals[1] != goals[2]
    assert np.abs(states[0] - states[1]).max() > 1e-3
    again = environments.reset([3, 9, 2], [6, 5, 5])
    assert [tuple(env.unwrapped.goal) for env in environments.envs] == [goals[2], goals[0], goals[0]]
    assert (again[0] == states[2]).all()


def goals_of(env: Any, seeds: Any) -> list[tuple[float, ...]]:
    return [tuple(env.reset(seed=seed)[1]["goal"]) for seed in seeds]


def test_without_a_group_an_environment_keeps_its_goal() -> None:
    first = goals_of(make_env(TASKS["umaze"]), (1, 2, None))
    assert len(set(first)) == 1
    assert goals_of(make_env(TASKS["umaze"]), (1, 5)) == first[:2]
    assert goals_of(make_env(TASKS["umaze"]), (2,)) != first[:1]


def test_gin_chooses_the_law() -> None:
    gin_files.load_gin([], ["AntMaze.goal_law=per_episode"])
    env = make_env(TASKS["umaze"])
    assert len(set(goals_of(env, (1, 2, 3)))) == 3
    shared_goal = [tuple(env.reset(seed=1, options={"group": group})[1]["goal"]) for group in (5, 6)]
    assert shared_goal[0] == shared_goal[1]
    assert operative_parameters()["envs.AntMaze.goal_law"] == "per_episode"


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


# seen


def test_the_picture_shows_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: MuJoCo chooses how to draw when it is imported."""
    code = """
import sys
from dqlab.envs import make_env, tasks
env = make_env(tasks.get("antmaze-umaze-v0"), render_mode="rgb_array", width=160, height=120)
env.reset(seed=0)
picture = env.render().astype(int)
red = (picture[..., 0] > picture[..., 1] + 60) & (picture[..., 0] > picture[..., 2] + 60)
rows, columns = red.nonzero()
print(picture.shape, 20 < red.sum() < 400, rows.max() < 60, columns.max() < 80)
env.close()
"""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if "EGL" in done.stderr or "OpenGL" in done.stderr:
        pytest.skip("there is no EGL here")
    assert done.stdout.strip() == "(120, 160, 3) True True True", done.stderr


def task_name(maze: str, dense: str = "") -> str:
    return f"maze2d-{maze}{dense}-v{int(maze != 'open')}"


@pytest.mark.parametrize("dense", ["", "-dense"])
def test_maze2d_as_in_mujoco_210(dense: str) -> None:
    """That contacts are as soft as there is what makes it so."""
    recorded, env = golden(f"maze2d-medium{dense}"), make_env(tasks.get(task_name("medium", dense))).unwrapped
    assert np.abs(env.reset(seed=5)[0] - recorded["seeded_observation"]).max() < 1e-12
    assert (env.goal == recorded["goal"]).all()
    env.set_state(recorded["qpos0"], recorded["qvel0"])
    assert replay(env, recorded) < 1e-12
    env.model.body_invweight0[1, 0] = env.model.dof_invweight0[0]
    env.set_state(recorded["qpos0"], recorded["qvel0"])
    assert replay(env, recorded) > 1e-4


@pytest.mark.parametrize("maze", LAYOUTS)
def test_maze2ds_mazes_are_closed_and_all_of_it_can_be_walked(maze: str) -> None:
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
    env = make_env(tasks.get(task_name("umaze")))
    starts = np.array([env.reset(seed=seed)[0] for seed in range(60)])
    cells = {tuple(cell) for cell in np.rint(starts[:, :2]).astype(int)}
    assert cells == {(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)}
    assert 0.05 < np.abs(starts[:, :2] - np.rint(starts[:, :2])).max() <= 0.1


@pytest.mark.parametrize("dense", ["", "-dense"])
def test_maze2ds_rewards_by_hand(dense: str) -> None:
    """Of the place after the step: within half a metre, or exp(-distance); nothing ends but the limit."""
    env = make_env(replace(tasks.get(task_name("large", dense)), episode_limit=4))
    env.reset(seed=0)
    base, ends = env.unwrapped, []
    for offset in (0.0, 0.3, -0.45, 0.55):
        base.set_state(base.goal + np.array([offset, 0.0]), np.zeros(2))
        observation, reward, terminated, truncated, _ = env.step(np.zeros(2))
        distance = np.linalg.norm(observation[:2] - (7, 9))
        assert distance == pytest.approx(abs(offset), abs=0.06)
        assert reward == pytest.approx(np.exp(-distance) if dense else float(distance <= 0.5))
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_maze2ds_speed_and_actions_are_clipped() -> None:
    env = make_env(tasks.get(task_name("open"))).unwrapped
    finals = []
    for speed, push in ((5.0, 1.0), (9.0, 7.0)):
        env.reset(seed=0)
        env.set_state(np.array([2.0, 1.0]), np.array([0.0, speed]))
        finals.append(env.step(np.array([push, 0.0]))[0])
    assert np.array_equal(*finals)
    assert finals[0][2] == pytest.approx(100.0 / (4000 / 3 * np.pi * 0.1**3) * 0.01, rel=0.01)
