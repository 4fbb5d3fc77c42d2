"""Environments against D4RL's own code on genuine MuJoCo 2.1.0, and against every real D4RL row that can be replayed.

`golden/*.npz` are excerpts of roll-outs, and `seeded_*` what D4RL's environment gives after `env.seed(5); env.reset()`
with gym 0.23.1. AntMaze's begin on the floor, or with legs in a wall; door's and relocate's have fingers deep in the
table; Maze2D's run into a wall; the kitchen's fingers push the slide cabinet, then the light switch, without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mujoco
import numpy as np
import pytest
from golden_steps import golden, replay

from dqlab.envs import make_env, tasks
from dqlab.envs.robots import Stepper

Record = dict[str, np.ndarray]


def part(name: str, run: str) -> Record:
    """One of several runs in a file."""
    return {key.removeprefix(f"{run}_"): value for key, value in golden(name).items() if key.startswith(f"{run}_")}


def base_env(task: str, physics: str = "mujoco210", **arguments: Any) -> Any:
    if tasks.get(task).extra == "robotics":
        pytest.importorskip("gymnasium_robotics")
    env = make_env(tasks.get(task), physics, **arguments)
    env.reset(seed=0)
    return env.unwrapped


def put(base: Any, recorded: Record) -> Any:
    """The environment in the state where a record begins; what a hand's reset draws is part of it."""
    if hasattr(base, "set_env_state"):
        mujoco.mj_resetData(base.model, base.data)
        places = {name: recorded[name] for name in {*base.get_env_state()} - {"qpos", "qvel"}}
        base.set_env_state({"qpos": recorded["qpos0"], "qvel": recorded["qvel0"], **places})
    else:
        base.set_state(recorded["qpos0"], recorded["qvel0"])
    if hasattr(base, "_observe"):
        base._observe()  # the kitchen's targets start from what was seen
    return base


ROBOTS = ("walker2d", "hopper", "halfcheetah", "ant")
FLOOR = ("floor_0", "floor_1")
ANT = {name: golden("antmaze")[name] for name in ("body_mass", "body_inertia")}
MAZES = {"umaze": "", "medium": "-play", "large": "-play"}
STEPS = ("qpos0", "qvel0", "actions", "qpos", "qvel")
HANDS = {"pen": 1e-9, "door": 1e-7, "hammer": 1e-7, "relocate": 1e-7}
RECORDS: list[tuple[str, Record, float]] = [
    *((f"{robot}-medium-v2", golden(robot), 1e-9) for robot in ROBOTS),
    *((f"antmaze-{maze}{kind}-v0", part("antmaze", run), 1e-9) for maze, kind in MAZES.items() for run in FLOOR),
    *((f"antmaze-{maze}{kind}-v0", part("antmaze_walls", maze) | ANT, 1e-9) for maze, kind in MAZES.items()),
    *((f"maze2d-medium{dense}-v1", golden(f"maze2d-medium{dense}"), 1e-12) for dense in ("", "-dense")),
    *((f"{hand}-human-v1", golden(hand), near) for hand, near in HANDS.items()),
    *(("kitchen-complete-v0", {name: golden("kitchen")[name][run] for name in STEPS}, 1e-9) for run in (0, 1)),
]


@pytest.mark.parametrize(("task", "recorded", "near"), RECORDS, ids=[f"{task}-{near}" for task, _, near in RECORDS])
def test_as_in_mujoco_210(task: str, recorded: Record, near: float) -> None:
    """Masses; from the same seed the same start; then states, observations, rewards and ends of every step."""
    base = base_env(task, **({"noise": 0.0} if "kitchen" in task else {}))
    if "body_mass" in recorded:
        assert np.abs(base.model.body_mass - recorded["body_mass"]).max() < 1e-12
        assert np.abs(np.sort(base.model.body_inertia) - np.sort(recorded["body_inertia"])).max() < 1e-12
    if "seeded_observation" in recorded:
        assert np.abs(base.reset(seed=5)[0] - recorded["seeded_observation"]).max() < 1e-12
        drawn = base.get_env_state() if hasattr(base, "get_env_state") else {"goal": base.goal}
        for name in {*drawn} & {key.removeprefix("seeded_") for key in recorded if key.startswith("seeded_")}:
            assert np.abs(drawn[name] - recorded[f"seeded_{name}"]).max() < 1e-12
    assert replay(put(base, recorded), recorded) < near
    if "observation" in recorded:
        assert np.abs(base._get_obs() - recorded["observation"]).max() < near
    assert mujoco.get_mjcb_passive() is None, "no callback is left behind"


def without_depths(base: Any) -> None:
    base._stepper = Stepper(base.model, base.data, np.zeros(base.model.ngeom))


def with_hard_contacts(base: Any) -> None:
    base.model.body_invweight0[1, 0] = base.model.dof_invweight0[0]


SPOILT: list[tuple[str, Record, Callable[[Any], None] | None, float]] = [
    *((f"{robot}-medium-v2", golden(robot), None, 1e-3) for robot in ROBOTS),
    ("antmaze-umaze-v0", part("antmaze", "floor_0"), None, 1e-3),
    ("antmaze-umaze-v0", part("antmaze_walls", "umaze"), without_depths, 1e-1),
    *((f"{hand}-human-v1", golden(hand), without_depths, 1e-5) for hand in ("door", "relocate")),
    ("maze2d-medium-v1", golden("maze2d-medium"), with_hard_contacts, 1e-4),
]


@pytest.mark.parametrize(("task", "recorded", "spoil", "far"), SPOILT, ids=lambda value: str(value)[:20])
def test_the_corrections_are_what_makes_it_so(
    task: str, recorded: Record, spoil: Callable[[Any], None] | None, far: float
) -> None:
    """With the installed MuJoCo's own masses or contacts the same steps are others."""
    base = base_env(task, "mujoco210" if spoil else "modern")
    if spoil:
        spoil(base)
    assert replay(put(base, recorded), recorded, 10) > far


RUNS = [(f"{robot}-medium-v2", f"{robot}_0.1_1", 10, 1e-9) for robot in ("walker2d", "hopper", "halfcheetah")]
RUNS += [("antmaze-umaze-v0", f"antmaze-umaze_{run}", *until) for run in (0, 1) for until in ((100, 1e-9), (300, 1e-4))]
RUNS += [("pen-human-v1", f"pen_{run}", 100, 2e-8) for run in (0, 1)]


@pytest.mark.parametrize(("task", "run", "steps", "near"), RUNS)
def test_runs_of_mujoco_210(shared: Path, task: str, run: str, steps: int, near: float) -> None:
    """Errors grow with time, as they do between two builds of MuJoCo."""
    recorded = dict(np.load(shared / "mujoco210" / f"{run}.npz"))
    base = put(base_env(task), recorded)
    if "observation0" in recorded:  # the pen, which falls; its velocities are metres and radians a second
        assert np.abs(base._get_obs() - recorded["observation0"]).max() < 1e-12
        assert recorded["dones"].any()
        del recorded["qvel"]
    assert replay(base, recorded, steps) < near


def rows_of(path: Path, *names: str) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [file[name][()].astype(bool if name in ("terminals", "timeouts") else float) for name in names]


STATE = ("infos/qpos", "infos/qvel")
ROWS = [(f"{robot}-medium-v2", f"{robot}_medium-v2", 10.0, 1e-4) for robot in ("walker2d", "hopper")]
ROWS += [("halfcheetah-medium-v2", "halfcheetah_medium-v2", np.inf, 1e-4)]
ROWS += [(f"pen-{name}-v1", f"pen-{name}-v1", np.inf, 2e-5) for name in ("human", "cloned")]
"""Task, file, at what velocities are recorded no faster, and how near steps are: files are float32."""


@pytest.mark.parametrize(("task", "name", "fastest", "near"), ROWS)
def test_every_replayable_row_of_real_d4rl(shared: Path, task: str, name: str, fastest: float, near: float) -> None:
    """State and reward after a step from the recorded state, of the pen observation and end, too.

    Rows whose successor is of the same episode, with unclipped velocities before and after.
    """
    file, base, is_hand, worst = shared / "d4rl-excerpts" / f"{name}.hdf5", base_env(task), "pen" in task, 0.0
    names = (*STATE, "actions", "observations", "rewards", "terminals", "timeouts")
    qpos, qvel, actions, observations, rewards, terminals, timeouts = rows_of(file, *names)
    wanted = rows_of(file, "infos/desired_orien")[0] if is_hand else np.zeros(len(qpos))
    inside = (np.abs(qvel) < fastest).all(axis=1)
    rows = np.flatnonzero(inside[:-1] & inside[1:] & ~(terminals | timeouts)[:-1])
    assert len(rows) > (190 if is_hand else 500)
    for i in rows:
        put(base, {"qpos0": qpos[i], "qvel0": qvel[i], "desired_orien": wanted[i]})
        observation, reward, terminated, _, _ = base.step(actions[i])
        errors = [base.data.qpos - qpos[i + 1], base.data.qvel - qvel[i + 1], np.array(reward - rewards[i])]
        if is_hand:
            errors.append(observation - observations[i + 1])
            assert terminated == terminals[i]
        worst = max(worst, *(float(np.abs(error).max()) for error in errors))
    assert worst < near


@pytest.mark.parametrize("task", ["antmaze-umaze-v0", "antmaze-medium-diverse-v0"])
def test_every_row_of_real_antmaze(shared: Path, task: str) -> None:
    """In AntMaze's files `infos/qpos` and `infos/qvel` are the state that follows a row's observation and action."""
    names = ("observations", "actions", *STATE)
    states, actions, *after = rows_of(shared / "d4rl-excerpts" / f"{task}.hdf5", *names)
    base, worst = base_env(task), 0.0
    for state, action, following in zip(states, actions, np.concatenate(after, axis=1), strict=True):
        base.set_state(state[:15], state[15:])
        worst = max(worst, float(np.abs(base.step(action)[0] - following).max()))
    assert worst < 1e-5  # the files are float32
