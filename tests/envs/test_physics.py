"""What the physics laws do to models, by hand; environments that share a file. Recordings: test_recordings.py."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from dqlab.envs import make_env, tasks
from dqlab.envs.physics import Body, legacy_inertia

PLANAR = ("walker2d", "hopper", "halfcheetah")


def base_env(robot: str, physics: str = "mujoco210") -> Any:
    env = make_env(tasks.get(f"{robot}-medium-v2"), physics)
    env.reset(seed=0)
    return env.unwrapped


def test_the_ant_has_no_contact_forces() -> None:
    """111 numbers, the last 84 of them 0, lying on the ground too."""
    env = base_env("ant")
    for _ in range(30):
        observation, reward, _, _, info = env.step(np.zeros(8))
        assert observation.shape == (111,)
        assert (observation[27:] == 0).all()
        assert reward == pytest.approx(1.0 + info["reward_forward"])


def compiled(world: str) -> Any:
    return mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{world}</worldbody></mujoco>")


def test_a_body_of_two_geoms_by_hand() -> None:
    """Spheres of radius 0.1 at x = 0 and 0.2 at 0.9: the centre is eight ninths of the way; parallel axes."""
    joint = "<joint axis='0 0 1'/>"
    model = compiled(f"<body>{joint}<geom size='0.1'/><geom size='0.2' pos='0.9 0 0'/></body>")
    legacy_inertia(model)
    small, large = 4000 / 3 * np.pi * 0.1**3, 4000 / 3 * np.pi * 0.2**3
    assert model.body_mass[1] == pytest.approx(small + large)
    assert model.body_ipos[1] == pytest.approx([0.8, 0.0, 0.0])
    along = 0.4 * (small * 0.1**2 + large * 0.2**2)
    assert np.sort(model.body_inertia[1]) == pytest.approx([along] + 2 * [along + small * 0.8**2 + large * 0.1**2])


def test_walls_and_frames_have_no_mass_and_other_geoms_are_refused() -> None:
    wall, frame = "<geom type='box' size='1 1 1'/>", "<body><body><joint/><geom size='0.1'/></body></body>"
    model = compiled(wall + frame)
    legacy_inertia(model, Body(density=5.0))
    assert model.body_mass == pytest.approx([0.0, 0.0, 5.0 * 4 / 3 * np.pi * 0.1**3])
    with pytest.raises(ValueError, match="capsules and spheres only"):
        legacy_inertia(compiled(f"<body>{wall}</body>"))


@pytest.mark.parametrize("robot", PLANAR)
def test_corrected_bodies_keep_their_contacts(robot: str) -> None:
    """Where a body touches the ground does not depend on its mass: the same contacts in any pose, on its back too."""
    corrected, plain, draw = base_env(robot), base_env(robot, "modern"), np.random.default_rng(0)
    touched = 0
    for _ in range(200):
        qpos = draw.normal(size=plain.model.nq) * 0.3
        qpos[1:3] = draw.uniform(-0.7, 0.5) + plain.init_qpos[1], draw.uniform(-np.pi, np.pi)
        for env in (corrected, plain):
            env.set_state(qpos, np.zeros(plain.model.nv))
        assert np.array_equal(corrected.data.contact.geom, plain.data.contact.geom)
        touched += plain.data.ncon
    assert touched > 50


@pytest.mark.parametrize("name", ["pen-human-v1", "kitchen-complete-v0"])
def test_copies_and_seeded_episodes(name: str) -> None:
    """Environments of one file share no state: stepped in turns, each goes its own way; alone, the same way."""
    pytest.importorskip("gymnasium_robotics")
    task = tasks.get(name)
    env, twin = make_env(task), pickle.loads(pickle.dumps(make_env(task).unwrapped))
    vector = gymnasium.vector.SyncVectorEnv([lambda: make_env(task) for _ in range(2)])
    together = [vector.reset(seed=[3, 4])[0]] + [vector.step(np.full((2, task.action_dim), 0.1))[0] for _ in range(5)]
    for number, seed in enumerate((3, 4)):
        assert np.array_equal(twin.reset(seed=seed)[0], env.reset(seed=seed)[0])
        alone = [env.reset(seed=seed)[0]] + [env.step(np.full(task.action_dim, 0.1))[0] for _ in range(5)]
        np.testing.assert_array_equal(np.float32(alone), np.float32([states[number] for states in together]))
    assert not np.array_equal(*together[0])
    if name.startswith("kitchen"):
        assert len({id(each.unwrapped.model) for each in vector.envs}) == 1, "compiled once"
    env.reset(seed=3, options={"group": 4})
    ends = [env.step(np.zeros(task.action_dim))[3] for _ in range(task.episode_limit)]
    assert ends == [False] * (task.episode_limit - 1) + [True]
