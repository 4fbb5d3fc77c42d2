"""Physics and rewards against genuine MuJoCo 2.1.0, and against every real D4RL row that can be replayed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from golden_steps import golden, replay

from dqlab.envs import make_env, tasks
from dqlab.envs.physics import Body, CompiledModelEnv, capsule_as_cylinder, legacy_inertia, sphere

PLANAR = ("walker2d", "hopper", "halfcheetah")
ROBOTS = (*PLANAR, "ant")


def base_env(robot: str, physics: str = "mujoco210") -> Any:
    env = make_env(tasks.get(f"{robot}-medium-v2"), physics)
    env.reset(seed=0)
    return env.unwrapped


def error(env: Any, recorded: Any, steps: int) -> float:
    env.set_state(recorded["qpos0"], recorded["qvel0"])
    return replay(env, recorded, steps)


def test_solids_by_hand() -> None:
    """A capsule, r = 0.1, h = 0.2: length 0.5, mass 1000 pi 0.005, inertia m r^2 / 2 and m (3 r^2 + L^2) / 12.

    A sphere, r = 0.25, density 5 (the ant's torso): mass 5 * 4/3 pi r^3 = 0.3272492, inertia 2/5 m r^2.
    """
    mass, inertia = capsule_as_cylinder(np.array([0.1, 0.2, 0.0]))
    assert mass == pytest.approx(15.70796, abs=1e-5)
    assert inertia == pytest.approx([0.3665191, 0.3665191, 0.0785398], abs=1e-7)
    mass, inertia = sphere(np.array([0.25]), 5.0)
    assert mass == pytest.approx(0.3272492, abs=1e-7)
    assert inertia == pytest.approx([0.0081812] * 3, abs=1e-7)


@pytest.mark.parametrize("robot", ROBOTS)
def test_committed_excerpt_of_mujoco_210(robot: str) -> None:
    """On the installed MuJoCo's own masses the same steps are others."""
    recorded, env = golden(robot), base_env(robot)
    assert np.abs(env.model.body_mass - recorded["body_mass"]).max() < 1e-12
    assert np.abs(np.sort(env.model.body_inertia) - np.sort(recorded["body_inertia"])).max() < 1e-12
    assert error(env, recorded, 20) < 1e-9
    assert error(base_env(robot, "modern"), recorded, 10) > 1e-3


@pytest.mark.parametrize("robot", PLANAR)
@pytest.mark.parametrize("run", ["1.0_0", "0.1_1"])
def test_mujoco_210_runs(shared: Path, robot: str, run: str) -> None:
    assert error(base_env(robot), np.load(shared / "mujoco210" / f"{robot}_{run}.npz"), 10) < 1e-9


CLIPPED = {"walker2d": 10.0, "hopper": 10.0, "halfcheetah": np.inf}
"""At what velocities are recorded no faster."""


@pytest.mark.parametrize("robot", PLANAR)
def test_every_replayable_row_of_real_d4rl(shared: Path, robot: str) -> None:
    """Those whose successor is of the same episode, with unclipped velocities before and after."""
    with h5py.File(shared / "d4rl-excerpts" / f"{robot}_medium-v2.hdf5") as file:
        qpos, qvel = file["infos/qpos"][()].astype(float), file["infos/qvel"][()].astype(float)
        actions, rewards = file["actions"][()].astype(float), file["rewards"][()]
        ends = file["terminals"][()].astype(bool) | file["timeouts"][()].astype(bool)
    inside = (np.abs(qvel) < CLIPPED[robot]).all(axis=1)
    rows = np.flatnonzero(inside[:-1] & inside[1:] & ~ends[:-1])
    assert len(rows) > 500
    env, worst = base_env(robot), 0.0
    for i in rows:
        env.set_state(qpos[i], qvel[i])
        _, reward, _, _, _ = env.step(actions[i])
        errors = np.abs(env.data.qpos - qpos[i + 1]).max(), np.abs(env.data.qvel - qvel[i + 1]).max()
        worst = max(worst, *errors, abs(reward - rewards[i]))
    assert worst < 1e-4


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_the_ant_has_no_contact_forces() -> None:
    """111 numbers, the last 84 of them 0, lying on the ground too; Ant-v4 has 27, or forces that are not 0."""
    env, theirs = base_env("ant"), gymnasium.make("Ant-v4", use_contact_forces=True).unwrapped
    theirs.reset(seed=0)
    for _ in range(30):
        observation, reward, _, _, info = env.step(np.zeros(8))
        assert observation.shape == (111,)
        assert (observation[27:] == 0).all()
        assert reward == pytest.approx(1.0 + info["reward_forward"])
        forces = theirs.step(np.zeros(8))[0][27:]
    assert np.abs(forces).max() > 0.1


def compiled(world: str) -> Any:
    import mujoco

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


def test_walls_and_frames_have_no_mass() -> None:
    wall, frame = "<geom type='box' size='1 1 1'/>", "<body><body><joint/><geom size='0.1'/></body></body>"
    model = compiled(wall + frame)
    legacy_inertia(model, Body(density=5.0))
    assert model.body_mass == pytest.approx([0.0, 0.0, 5.0 * 4 / 3 * np.pi * 0.1**3])


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


def test_other_geoms_are_refused() -> None:
    with pytest.raises(ValueError, match="capsules and spheres only"):
        legacy_inertia(compiled("<body><geom type='box' size='1 1 1'/></body>"))


@pytest.mark.parametrize("name", ["pen-human-v1", "kitchen-complete-v0"])
def test_copies_vectors_and_seeded_episodes(name: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    task = tasks.get(name)
    env, other, limit = make_env(task), make_env(task), task.episode_limit
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    assert np.array_equal(twin.reset(seed=3)[0], env.reset(seed=3)[0])
    vector = gymnasium.vector.SyncVectorEnv([lambda: make_env(task) for _ in range(3)])
    observations, _ = vector.reset(seed=[3, 4, 3])
    assert np.array_equal(observations[0], observations[2])
    assert not np.array_equal(observations[0], observations[1])
    assert vector.step(np.zeros((3, task.action_dim), np.float32))[0].shape == (3, task.state_dim)
    if name.startswith("kitchen"):
        assert len({id(each.unwrapped.model) for each in vector.envs}) == 1, "compiled once"

    def episode(made: Any, steps: int) -> list[Any]:
        made.reset(seed=3, options={"group": 4})
        return [made.step(np.zeros(task.action_dim))[1:4] for _ in range(steps)]

    other.reset(seed=9)  # with a state of its own: environments share a file, not a model
    whole = episode(env, limit)
    assert [truncated for _, _, truncated in whole] == [False] * (limit - 1) + [True]
    assert episode(other, 20) == whole[:20]


def test_gymnasium_compiles_models_where_ours_are_given_to_it() -> None:
    """A private name: without it, D4RL's ant, pen and kitchen would silently be Gymnasium's own."""
    from gymnasium.envs.mujoco import MujocoEnv

    assert callable(MujocoEnv._initialize_simulation)
    env = make_env(tasks.get("antmaze-umaze-v0")).unwrapped
    assert isinstance(env, CompiledModelEnv)
    assert any(env.model.geom(number).name.startswith("wall") for number in range(env.model.ngeom))
