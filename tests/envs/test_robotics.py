"""The hands and the kitchen, where they are as D4RL's own code on genuine MuJoCo 2.1.0; steps: test_recordings.py.

`golden/kitchen.npz` was recorded with D4RL 1.1's `KitchenMicrowaveKettleLightSliderV0`, gym 0.23.1 and mujoco-py
2.1.2.14 (`USE_DM_CONTROL = False`): steps from `qpos0`, `qvel0` without noise; positions `touching` with the hand near
or on the microwave, and how many `contacts` MuJoCo finds there; after `env.seed(5)`, with noise, the first 30 numbers
of the observation of `env.reset()` and of the steps with `noisy_actions`; inertias of the bodies that have capsules.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import mujoco
import numpy as np
import pytest
from golden_steps import golden

from dqlab.envs import make_env, tasks

pytest.importorskip("gymnasium_robotics")
from dqlab.envs.kitchen import GOALS, INITIAL, model_file

TASK = tasks.get("kitchen-complete-v0")


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env(TASK)


def put(env: Any, qpos: np.ndarray) -> Any:
    """The environment at rest in this state, and having seen it."""
    base = env.unwrapped
    base.set_state(qpos, np.zeros(29))
    base._observe()
    return base


def test_no_contact_is_lost(env: Any) -> None:
    """Bounding boxes are stored in the inertial frames: the corrected ones must not be permuted against the old."""
    recorded, model = golden("kitchen"), env.unwrapped.model
    for qpos, found in zip(recorded["touching"], recorded["contacts"], strict=True):
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        assert data.ncon == found


def test_inertias_of_mujoco_210(env: Any) -> None:
    recorded, model = golden("kitchen"), env.unwrapped.model
    plain = mujoco.MjModel.from_xml_path(str(model_file()))
    for name, body in (("kettle", "kettleroot"), ("door", "microdoorroot")):
        legacy = recorded[f"body_inertia_{name}"]
        assert np.abs(np.sort(model.body(body).inertia) - np.sort(legacy)).max() < 1e-12
        assert np.abs(np.sort(plain.body(body).inertia) - np.sort(legacy)).max() > 1e-6
    assert np.array_equal(model.body_mass, plain.body_mass)


def test_noise_and_its_order_are_d4rls(env: Any) -> None:
    recorded = golden("kitchen")
    seen = [env.reset(seed=5)[0]] + [env.step(action)[0] for action in recorded["noisy_actions"]]
    assert np.abs(np.array(seen)[:, :30] - recorded["noisy_observations"]).max() < 1e-12


@pytest.mark.parametrize(("kind", "absent"), [("complete", "bottom burner"), ("mixed", "slide cabinet")])
def test_the_goal_is_part_of_the_observation(kind: str, absent: str) -> None:
    goal = make_env(tasks.get(f"kitchen-{kind}-v0")).reset(seed=0)[0][30:]
    assert (goal[22], *goal[17:19], *goal[23:]) == (-0.75, -0.69, -0.05, -0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)
    assert not goal[GOALS[absent][0]].any()
    assert not goal[:11].any()


def test_each_goal_counts_once_and_the_last_ends_the_episode() -> None:
    still = make_env(TASK, noise=0.0)
    still.reset(seed=0)
    qpos, rewards = INITIAL.copy(), []
    for name in ("microwave", "light switch", "bottom burner", "kettle", "slide cabinet"):
        where, wanted = GOALS[name]
        qpos[where] = wanted
        base = put(still, qpos)
        _, reward, terminated, truncated, info = base.step(np.zeros(9))
        rewards.append(reward)
        assert terminated == (name == "slide cabinet")
        assert not truncated
    assert rewards == [1.0, 1.0, 0.0, 1.0, 1.0], "the burner is not asked for"
    assert info["completed"] == ["microwave", "kettle", "light switch", "slide cabinet"]
    assert base.step(np.zeros(9))[1] == 0.0


def test_goals_are_judged_by_what_is_seen() -> None:
    """The door stands a little outside of the limit of 0.3; only noise lets it count."""
    noisy, rewards = make_env(TASK), []
    qpos = INITIAL.copy()
    qpos[22] = -0.75 + 0.305
    for seed in range(20):
        noisy.reset(seed=seed)
        rewards.append(put(noisy, qpos).step(np.zeros(9))[1])
    assert set(rewards) == {0.0, 1.0}


def test_targets_start_from_the_last_observation(env: Any) -> None:
    observation, _ = env.reset(seed=1)
    action = np.array([0.5, 0.5, 0, 0, 0, 0, 0, -1, 3.0])
    env.step(action)
    servos = env.unwrapped.data.ctrl
    moved = servos[:3] - observation[:3]
    assert moved == pytest.approx([0.08, 0.08, 0.0], abs=1e-12)
    assert servos[7:].tolist() == [0.0, 0.04]


def hand(name: str) -> Any:
    return make_env(tasks.get(f"{name}-human-v1"))


@pytest.mark.parametrize("name", ["pen", "door", "hammer", "relocate"])
def test_a_state_that_was_read_can_be_set(name: str) -> None:
    """Also in another environment, once things have moved."""
    one, other = (hand(name).unwrapped for _ in range(2))
    one.reset(seed=1)
    other.reset(seed=2)
    for _ in range(5):
        one.step(np.full(one.action_space.shape, 0.3, np.float32))
    state = one.get_env_state()
    for env in (one, other):
        env.set_env_state(state)
    assert one.data.qpos.tolist() == state["qpos"].tolist()
    assert np.abs(one._get_obs() - other._get_obs()).max() < 1e-12


def test_a_dropped_pen_ends_the_episode_and_costs_five() -> None:
    """The same fall, 0.2 m lower: nothing else in the reward changes by as much."""
    pen = hand("pen").unwrapped
    pen.reset(seed=1)
    state = pen.get_env_state()
    ends: list[Any] = []
    for depth in (0.0, 0.2):
        pen.set_env_state({**state, "qpos": state["qpos"] + depth * (np.arange(30) == 24)})
        ends.append(pen.step(np.zeros(24))[1:])
    assert [(*ended[1:3], ended[3]["goal_achieved"]) for ended in ends] == [(False, False, False), (True, False, False)]
    assert -5.5 < ends[1][0] - ends[0][0] < -4.5


@pytest.mark.parametrize(("angle", "bonus"), [(0.1, 0.0), (0.5, 2.0), (1.1, 10.0), (1.5, 20.0)])
def test_an_open_door_pays(angle: float, bonus: float) -> None:
    base = hand("door").unwrapped
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
    assert all(line.endswith("[robotics]'") and "Try: pip install " in line for line in lines)
