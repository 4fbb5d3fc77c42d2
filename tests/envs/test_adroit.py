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
from golden_steps import golden, replay

from dqlab.envs import make_env, tasks

pytest.importorskip("gymnasium_robotics")
TASK = tasks.get("pen-human-v1")
HANDS = {
    "pen": (("desired_orien",), 1e-9),
    "door": (("door_body_pos",), 1e-7),
    "hammer": (("board_pos",), 1e-7),
    "relocate": (("obj_pos", "target_pos"), 1e-7),
}
"""What a reset draws, and how near the steps are."""


@pytest.fixture(scope="module")
def env() -> Any:
    made = make_env(TASK)
    made.reset(seed=0)
    return made


def put(base: Any, recorded: Any, name: str = "pen") -> Any:
    """The environment in the state where a record begins."""
    mujoco.mj_resetData(base.model, base.data)
    start = {"qpos": recorded["qpos0"], "qvel": recorded["qvel0"]}
    base.set_env_state({**start, **{place: recorded[place] for place in HANDS[name][0]}})
    return base


@pytest.mark.parametrize("name", HANDS)
def test_a_hand_as_in_mujoco_210(name: str) -> None:
    """From the same seed the same start; then states, observations, rewards and ends of every step."""
    recorded, hand = golden(name), make_env(tasks.get(f"{name}-human-v1"))
    assert np.abs(hand.reset(seed=5)[0] - recorded["seeded_observation"]).max() < 1e-12
    base, (places, near) = hand.unwrapped, HANDS[name]
    for place in set(places) - {"desired_orien"}:
        assert np.abs(base.get_env_state()[place] - recorded[f"seeded_{place}"]).max() < 1e-12
    assert replay(put(base, recorded, name), recorded) < near
    assert name != "pen" or np.abs(base._get_obs() - recorded["observation"]).max() < near


@pytest.mark.parametrize("name", HANDS)
def test_a_state_that_was_read_can_be_set(name: str) -> None:
    """Also in another environment, once things have moved."""
    one, other = (make_env(tasks.get(f"{name}-human-v1")) for _ in range(2))
    one.reset(seed=1)
    other.reset(seed=2)
    for _ in range(5):
        one.step(np.full(one.action_space.shape, 0.3, np.float32))
    state = one.unwrapped.get_env_state()
    for env in (one, other):
        env.unwrapped.set_env_state(state)
    assert one.unwrapped.data.qpos.tolist() == state["qpos"].tolist()
    assert np.abs(one.unwrapped._get_obs() - other.unwrapped._get_obs()).max() < 1e-12


@pytest.mark.parametrize("name", ["door", "relocate"])
def test_fingers_in_a_table_need_the_correction(name: str) -> None:
    """The test above can fail: with the installed MuJoCo's own contacts the same steps differ."""
    from dqlab.envs.robots import Stepper

    recorded, base = golden(name), make_env(tasks.get(f"{name}-human-v1")).unwrapped
    base._stepper = Stepper(base.model, base.data, np.zeros(base.model.ngeom))
    base.reset(seed=0)
    assert replay(put(base, recorded, name), recorded) > 1e-5


@pytest.mark.parametrize("run", [0, 1])
def test_mujoco_210_runs(shared: Path, env: Any, run: int) -> None:
    """All hundred steps, contacts and the falling pen included; velocities are metres and radians a second."""
    recorded = np.load(shared / "mujoco210" / f"pen_{run}.npz")
    base = put(env.unwrapped, recorded)
    assert np.abs(base._get_obs() - recorded["observation0"]).max() < 1e-12
    assert replay(base, {name: recorded[name] for name in recorded if name != "qvel"}) < 2e-8
    assert recorded["dones"].any()


@pytest.mark.parametrize("name", ["human", "cloned"])
def test_every_row_of_real_d4rl(shared: Path, env: Any, name: str) -> None:
    """State, observation and reward after each recorded step, from the recorded state before it (float32)."""
    with h5py.File(shared / "d4rl-excerpts" / f"pen-{name}-v1.hdf5") as file:
        qpos, qvel, goal = (file[f"infos/{key}"][()].astype(float) for key in ("qpos", "qvel", "desired_orien"))
        actions, observations = file["actions"][()].astype(float), file["observations"][()]
        rewards, terminals = file["rewards"][()], file["terminals"][()].astype(bool)
        ends = file["timeouts"][()].astype(bool) | terminals
    base, worst = env.unwrapped, 0.0
    env.reset()
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


@pytest.mark.parametrize(("angle", "bonus"), [(0.1, 0.0), (0.5, 2.0), (1.1, 10.0), (1.5, 20.0)])
def test_an_open_door_pays(angle: float, bonus: float) -> None:
    base = make_env(tasks.get("door-human-v1")).unwrapped
    base.reset(seed=0)
    state = base.get_env_state()
    base.set_env_state({**state, "qpos": np.where(np.arange(30) == 28, angle, state["qpos"])})
    _, reward, _, _, info = base.step(np.zeros(28))
    assert bonus - 1.0 < reward < bonus
    assert info["goal_achieved"] == (angle > 1.35)


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


def test_environments_share_no_target() -> None:
    """Stepped in turns, each goes its own way; alone, the same way."""

    def play(env: Any) -> Any:
        while True:
            yield env.step(np.full(24, 0.1))[0]

    together = [make_env(TASK) for _ in range(2)]
    first = [env.reset(seed=seed)[0] for seed, env in enumerate(together)]
    assert np.abs(first[0] - first[1]).max() > 0.1
    turns = [np.array(pair) for pair, _ in zip(zip(*map(play, together), strict=True), range(5), strict=False)]
    for seed in range(2):
        env = make_env(TASK)
        env.reset(seed=seed)
        alone = [observation for observation, _ in zip(play(env), range(5), strict=False)]
        np.testing.assert_array_equal(alone, [pair[seed] for pair in turns])
