"""The kitchen against D4RL's own code on genuine MuJoCo 2.1.0.

`golden/kitchen.npz` was recorded with D4RL 1.1's `KitchenMicrowaveKettleLightSliderV0`, gym 0.23.1 and mujoco-py
2.1.2.14 (`USE_DM_CONTROL = False`), in four parts.

1. Noise off, fingers that push the slide cabinet, then the light switch: from state `qpos0`, `qvel0` the steps with
   `actions`, and `qpos`, `qvel` after each.
2. Noise off, the hand near or on the microwave: positions `touching` and how many `contacts` MuJoCo finds there.
3. D4RL's noise: after `env.seed(5)`, the first 30 numbers of the observation of `env.reset()` and of the steps with
   `noisy_actions`.
4. The compiled inertias of the bodies that have capsules.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import mujoco
import numpy as np
import pytest
from golden_steps import golden, replay

from dqlab.envs import make_env, tasks

pytest.importorskip("gymnasium_robotics")
from dqlab.envs.kitchen import FACTS, GOALS, INITIAL, model_file

TASK = tasks.get("kitchen-complete-v0")


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env(TASK)


@pytest.fixture(scope="module")
def still() -> Any:
    """Without noise."""
    return make_env(TASK, noise=0.0)


def put(env: Any, qpos: np.ndarray, qvel: np.ndarray | None = None) -> Any:
    """The environment in this state, at rest if nothing is said, and having seen it."""
    base = env.unwrapped
    base.set_state(qpos, np.zeros(29) if qvel is None else qvel)
    base._observe()
    return base


@pytest.mark.parametrize("run", [0, 1])
def test_pushing_as_on_mujoco_210(still: Any, run: int) -> None:
    recorded = {name: golden("kitchen")[name][run] for name in ("qpos0", "qvel0", "actions", "qpos", "qvel")}
    moved = np.abs(recorded["qpos"][-1] - recorded["qpos0"])[9:].max()
    assert moved > 0.05, "fingers and objects touch"
    still.reset(seed=0)
    assert replay(put(still, recorded["qpos0"], recorded["qvel0"]), recorded) < 1e-9


def contacts(model: mujoco.MjModel, qpos: np.ndarray) -> int:
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    return int(data.ncon)


def test_no_contact_is_lost(env: Any) -> None:
    """Bounding boxes are stored in the inertial frames: the corrected ones must not be permuted against the old."""
    recorded = golden("kitchen")
    permuted = copy(env.unwrapped.model)
    for body in FACTS["inertias"]:
        frame = permuted.body_iquat[permuted.body(body).id]
        mujoco.mju_mulQuat(frame, frame.copy(), np.full(4, 0.5))
    for qpos, found in zip(recorded["touching"], recorded["contacts"], strict=True):
        assert contacts(env.unwrapped.model, qpos) == found
        assert contacts(permuted, qpos) < found


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


ABSENT = {"complete": "bottom burner", "partial": "bottom burner", "mixed": "slide cabinet"}


@pytest.mark.parametrize("kind", ABSENT)
def test_the_goal_is_part_of_the_observation(kind: str) -> None:
    observation, _ = make_env(tasks.get(f"kitchen-{kind}-v0")).reset(seed=0)
    goal = observation[30:]
    assert (goal[22], *goal[17:19], *goal[23:]) == (-0.75, -0.69, -0.05, -0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)
    assert not goal[GOALS[ABSENT[kind]][0]].any()
    assert not goal[:11].any()


def test_each_goal_counts_once_and_the_last_ends_the_episode(still: Any) -> None:
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
