"""Maze2D against D4RL 1.1 on genuine MuJoCo 2.1.0: dynamics, walls, starts, goals, rewards.

`golden/maze2d-medium*.npz`: 40 steps of D4RL's environments, into a wall, and what they give after a reset with seed 5.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from golden_steps import golden, replay

from dqlab.envs import make_env, tasks
from dqlab.envs.antmaze.maze import GOAL, WALL
from dqlab.envs.maze2d import LAYOUTS


def task_name(maze: str, dense: str = "") -> str:
    return f"maze2d-{maze}{dense}-v{int(maze != 'open')}"


@pytest.mark.parametrize("dense", ["", "-dense"])
def test_as_in_mujoco_210(dense: str) -> None:
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
def test_a_maze_is_closed_and_all_of_it_can_be_walked(maze: str) -> None:
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


def test_starts_are_everywhere() -> None:
    env = make_env(tasks.get(task_name("umaze")))
    starts = np.array([env.reset(seed=seed)[0] for seed in range(60)])
    cells = {tuple(cell) for cell in np.rint(starts[:, :2]).astype(int)}
    assert cells == {(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)}
    assert 0.05 < np.abs(starts[:, :2] - np.rint(starts[:, :2])).max() <= 0.1


@pytest.mark.parametrize("dense", ["", "-dense"])
def test_rewards_by_hand(dense: str) -> None:
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


def test_speed_and_actions_are_clipped() -> None:
    env = make_env(tasks.get(task_name("open"))).unwrapped
    finals = []
    for speed, push in ((5.0, 1.0), (9.0, 7.0)):
        env.reset(seed=0)
        env.set_state(np.array([2.0, 1.0]), np.array([0.0, speed]))
        finals.append(env.step(np.array([push, 0.0]))[0])
    assert np.array_equal(*finals)
    assert finals[0][2] == pytest.approx(100.0 / (4000 / 3 * np.pi * 0.1**3) * 0.01, rel=0.01)
