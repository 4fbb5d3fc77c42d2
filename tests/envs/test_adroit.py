"""Adroit's hands against genuine MuJoCo 2.1.0 (D4RL's own code ran there), the pen against real D4RL rows, too.

`golden/pen.npz`: the first ten of the hundred steps of ../shared/data/mujoco210/pen_0.npz, and `seeded_observation`,
what D4RL's environment gives after `env.seed(5); env.reset()` with gym 0.23.1. `golden/{door,hammer,relocate}.npz`:
twelve steps of a roll-out, of door and relocate with fingers deep in the table.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import mujoco
import numpy as np
import pytest

from dqlab.envs import make_env, tasks

pytest.importorskip("gymnasium_robotics")
GOLDEN = Path(__file__).parent / "golden" / "pen.npz"
TASK = tasks.get("pen-human-v1")


@pytest.fixture(scope="module")
def env() -> Any:
    made = make_env(TASK)
    made.reset(seed=0)
    return made


def put(env: Any, golden: Any) -> Any:
    base = env.unwrapped
    env.reset()
    base.set_env_state({"qpos": golden["qpos0"], "qvel": golden["qvel0"], "desired_orien": golden["desired_orien"]})
    return base


def test_committed_excerpt_of_mujoco_210(env: Any) -> None:
    golden = np.load(GOLDEN)
    base = put(env, golden)
    for i, action in enumerate(golden["actions"]):
        observation, reward, terminated, _, _ = base.step(action)
        assert np.abs(base.data.qpos - golden["qpos"][i]).max() < 1e-9
        assert np.abs(base.data.qvel - golden["qvel"][i]).max() < 1e-9
        assert abs(reward - golden["rewards"][i]) < 1e-9
        assert terminated == golden["dones"][i]
    assert np.abs(observation - golden["observation"]).max() < 1e-9


def test_a_seed_draws_the_target_that_d4rl_draws(env: Any) -> None:
    observation, _ = env.reset(seed=5)
    assert np.abs(observation - np.load(GOLDEN)["seeded_observation"]).max() < 1e-12


@pytest.mark.parametrize("run", [0, 1])
def test_mujoco_210_runs(shared: Path, env: Any, run: int) -> None:
    """All hundred steps, contacts and the falling pen included."""
    golden = np.load(shared / "mujoco210" / f"pen_{run}.npz")
    base = put(env, golden)
    assert np.abs(base._get_obs() - golden["observation0"]).max() < 1e-12
    for i, action in enumerate(golden["actions"]):
        observation, reward, terminated, _, _ = base.step(action)
        assert np.abs(base.data.qpos - golden["qpos"][i]).max() < 1e-8
        assert np.abs(observation - golden["observations"][i]).max() < 2e-8  # velocities: metres and radians a second
        assert abs(reward - golden["rewards"][i]) < 1e-8
        assert terminated == golden["dones"][i]
    assert golden["dones"].any()


@pytest.mark.parametrize("name", ["human", "cloned"])
def test_every_row_of_real_d4rl(shared: Path, env: Any, name: str) -> None:
    """State, observation and reward after each recorded step, from the recorded state before it (float32)."""
    with h5py.File(shared / "d4rl-excerpts" / f"pen-{name}-v1.hdf5") as file:
        qpos, qvel, goal = (file[f"infos/{key}"][()].astype(float) for key in ("qpos", "qvel", "desired_orien"))
        actions, observations = file["actions"][()].astype(float), file["observations"][()]
        rewards, terminals = file["rewards"][()], file["terminals"][()].astype(bool)
        ends = file["timeouts"][()].astype(bool) | terminals
    base, worst = put(env, {"qpos0": qpos[0], "qvel0": qvel[0], "desired_orien": goal[0]}), 0.0
    rows = np.flatnonzero(~ends[:-1])
    assert len(rows) > 190
    for i in rows:
        base.set_env_state({"qpos": qpos[i], "qvel": qvel[i], "desired_orien": goal[i]})
        observation, reward, terminated, _, _ = base.step(actions[i])
        assert terminated == terminals[i]
        errors = base.data.qpos - qpos[i + 1], base.data.qvel - qvel[i + 1], observation - observations[i + 1]
        worst = max(worst, abs(reward - rewards[i]), *(float(np.abs(error).max()) for error in errors))
    assert worst < 2e-5


def test_a_dropped_pen_ends_the_episode_and_costs_five(env: Any) -> None:
    """The same fall, 0.2 m lower: nothing else in the reward changes by as much."""
    env.reset(seed=1)
    base = env.unwrapped
    state = base.get_env_state()
    rewards, ended = [], []
    for depth in (0.0, 0.2):
        base.set_env_state({**state, "qpos": state["qpos"] + depth * (np.arange(30) == 24)})
        _, reward, terminated, truncated, info = base.step(np.zeros(24))
        rewards.append(reward)
        ended.append((terminated, truncated, info["goal_achieved"]))
    assert ended == [(False, False, False), (True, False, False)]
    assert -5.5 < rewards[1] - rewards[0] < -4.5


ARMS = {"door": ("door_body_pos",), "hammer": ("board_pos",), "relocate": ("obj_pos", "target_pos")}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_as_in_mujoco_210(name: str) -> None:
    """From the same seed the same start; then states, observations and rewards of every step."""
    golden = np.load(GOLDEN.with_name(f"{name}.npz"))
    arm = make_env(tasks.get(f"{name}-human-v1"))
    assert np.abs(arm.reset(seed=5)[0] - golden["seeded_observation"]).max() < 1e-12
    base = arm.unwrapped
    for place in ARMS[name]:
        assert np.abs(base.get_env_state()[place] - golden[f"seeded_{place}"]).max() < 1e-12
    mujoco.mj_resetData(base.model, base.data)
    start = {"qpos": golden["qpos0"], "qvel": golden["qvel0"]}
    base.set_env_state({**start, **{place: golden[place] for place in ARMS[name]}})
    for i, action in enumerate(golden["actions"]):
        observation, reward, terminated, _, _ = base.step(action)
        state = np.concatenate([base.data.qpos, base.data.qvel])
        assert np.abs(state - np.concatenate([golden["qpos"][i], golden["qvel"][i]])).max() < 1e-7
        assert np.abs(observation - golden["observations"][i]).max() < 1e-7
        assert abs(reward - golden["rewards"][i]) < 1e-7
        assert not terminated


@pytest.mark.parametrize("name", ["door", "relocate"])
def test_fingers_in_a_table_need_the_correction(name: str) -> None:
    """The test above can fail: with the installed MuJoCo's own contacts the same steps differ."""
    golden, base = np.load(GOLDEN.with_name(f"{name}.npz")), make_env(tasks.get(f"{name}-human-v1")).unwrapped
    base._stepper.cap(np.zeros(base.model.ngeom))
    base.reset(seed=0)
    start = {"qpos": golden["qpos0"], "qvel": golden["qvel0"]}
    base.set_env_state({**start, **{place: golden[place] for place in ARMS[name]}})
    for action in golden["actions"]:
        base.step(action)
    assert np.abs(base.data.qpos - golden["qpos"][-1]).max() > 1e-5


def test_rewards_by_hand() -> None:
    """At rest at the start, beside gymnasium-robotics' own, which pays for the distances that D4RL punishes."""
    door, hammer, relocate = (make_env(tasks.get(f"{name}-human-v1")) for name in ARMS)
    for each in (door, hammer, relocate):
        each.reset(seed=1)
    observation, reward, *_ = door.step(np.zeros(28))
    angle, speed = observation[28], door.unwrapped.data.qvel
    assert reward == pytest.approx(
        -0.1 * np.linalg.norm(observation[35:38]) - 0.1 * (angle - 1.57) ** 2 - 1e-5 * (speed @ speed), abs=1e-12
    )
    observation, reward, *_ = relocate.step(np.zeros(30))
    assert reward == pytest.approx(-0.1 * np.linalg.norm(observation[30:33]), abs=1e-12)
    base = hammer.unwrapped
    observation, reward, *_ = hammer.step(np.zeros(26))
    palm, tool, nail = observation[33:36], observation[36:39], observation[42:45]
    head, goal = (base.data.site(name).xpos for name in ("tool", "nail_goal"))
    expected = -0.1 * np.linalg.norm(palm - tool) - np.linalg.norm(head - nail) - 10 * np.linalg.norm(nail - goal)
    lifted = 2.0 * (tool[2] > 0.04 and head[2] > 0.04)
    assert reward == pytest.approx(expected - 0.01 * np.linalg.norm(base.data.qvel) + lifted, abs=1e-12)


@pytest.mark.parametrize(("angle", "bonus"), [(0.1, 0.0), (0.5, 2.0), (1.1, 10.0), (1.5, 20.0)])
def test_an_open_door_pays(angle: float, bonus: float) -> None:
    base = make_env(tasks.get("door-human-v1")).unwrapped
    base.reset(seed=0)
    state = base.get_env_state()
    base.set_env_state({**state, "qpos": np.where(np.arange(30) == 28, angle, state["qpos"])})
    _, reward, _, _, info = base.step(np.zeros(28))
    assert bonus - 1.0 < reward < bonus
    assert info["goal_achieved"] == (angle > 1.35)


def test_actions_are_clipped(env: Any) -> None:
    finals = []
    for size in (1.0, 7.0):
        env.reset(seed=2)
        finals.append(env.step(np.full(24, size, np.float32))[0])
    assert np.array_equal(*finals)


def test_what_to_install_and_nothing_else_is_printed() -> None:
    """Without gymnasium-robotics the mistake is one line."""
    code = """if True:
        import sys; sys.modules["gymnasium_robotics"] = None
        from dqlab.envs import make_env, tasks
        from dqlab.errors import ConfigError
        for name in ("pen-human-v1", "kitchen-mixed-v0"):
            try: make_env(tasks.get(name))
            except ConfigError as error: print(error)
        del sys.modules["gymnasium_robotics"]
        make_env(tasks.get("pen-cloned-v1"))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr, len(lines)) == (0, "", 2)
    assert all(line.endswith("Try: pip install 'dqlab[robotics]'") for line in lines)


def test_environments_share_a_model_and_not_a_target() -> None:
    """Stepped in turns, each goes its own way; alone, the same way."""

    def play(env: Any) -> Any:
        while True:
            yield env.step(np.full(24, 0.1))[0]

    together = [make_env(TASK) for _ in range(2)]
    first = [env.reset(seed=seed)[0] for seed, env in enumerate(together)]
    assert together[0].unwrapped.model is together[1].unwrapped.model
    assert np.abs(first[0] - first[1]).max() > 0.1
    turns = [np.array(pair) for pair, _ in zip(zip(*map(play, together), strict=True), range(5), strict=False)]
    for seed in range(2):
        env = make_env(TASK)
        env.reset(seed=seed)
        alone = [observation for observation, _ in zip(play(env), range(5), strict=False)]
        np.testing.assert_array_equal(alone, [pair[seed] for pair in turns])
