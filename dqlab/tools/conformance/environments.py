"""What environments and all that belongs to them must do: tasks, backends, physics laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import RegistryEntry
from dqlab.envs import make_env
from dqlab.envs.backend import EnvBackend, Environments
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DqlabError, message_of
from dqlab.tools.conformance.made import UncheckedError, check_same, check_shape, unchecked

Array = NDArray[Any]
DIVERGED = "it draws from something else than self.np_random, or its copies share something."


def check_environment(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, episode_limit: int = 0, seed: int = 0
) -> None:
    """Play four episodes in two copies of an environment: at rest, at both bounds of the actions, and at random.

    It must have flat, bounded actions and vectors as observations, take `seed` and `options` at a reset, give
    Gymnasium's five values with a finite observation and reward at every step, and be repeatable: both copies, stepped
    in turn, give the same numbers.

    Args:
        env_id: such as `Pendulum-v1`, or `MODULE:NAME` where importing a module registers it.
        env_kwargs: arguments of the environment.
        episode_limit: steps after which an episode is cut; 0 for the environment's own.
        seed: of the episodes.

    Raises:
        AssertionError: it does not; the message, one line, says what is wrong, and at which step and seed.
    """
    try:
        _play_four(describe_environment(env_id, env_kwargs, episode_limit), seed, env_id)
    except DqlabError as error:
        raise AssertionError(str(error)) from error


def _play_four(task: Task, seed: int, name: str) -> bool:
    """Play four episodes in two copies; whether all of them have ended by the task's limit."""
    shape = min(1000, task.episode_limit), task.action_dim  # no more steps of an episode are looked at
    rest, low, high = (np.full(shape, value, np.float32) for value in (0.0, -1.0, 1.0))
    drawn = np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)
    copies = [make_env(task) for _ in range(2)]
    try:
        space = copies[0].action_space
        assert bool((space.low == -1).all() and (space.high == 1).all()), f"actions must lie in [-1, 1], not in {space}"
        chosen = enumerate((rest, low, high, drawn), seed)
        ended = [_play(copies, actions, number, name) for number, actions in chosen]
        return all(ended)
    finally:
        for copy in copies:
            copy.close()


def _play(copies: list[Any], actions: Array, seed: int, name: str) -> bool:
    """One episode in all copies, stepped in turn, and its start once more; whether these actions end it."""
    for copy in copies:
        copy.reset(seed=seed)
    starts = [copy.reset(seed=seed, options={"group": seed})[0] for copy in copies]
    said = f"The environment '{name}' starts otherwise when it is reset with the same seed {seed}: {DIVERGED}"
    assert np.array_equal(*starts), said
    for step, action in enumerate(actions, 1):
        each = [copy.step(action)[:4] for copy in copies]
        where = f"at step {step} of an episode with seed {seed}"
        for what, values in zip(("observations", "rewards", "ends"), zip(*each, strict=False), strict=False):
            said = f"Two copies of '{name}', stepped in turn, give different {what} {where}: {DIVERGED}"
            assert np.array_equal(*values), said
        if each[0][2] or each[0][3]:
            return True
    return False


def check_task(entry: RegistryEntry[Task]) -> None:
    """Scores of 0 and 100 at its references; its environment has its sizes and limit, is finite, and repeatable."""
    task = entry.item
    assert isinstance(task, Task), "a task must be a Task"
    assert task.episode_limit >= 1, f"an episode has {task.episode_limit} steps"
    assert task.max_score > task.min_score, "max_score must be larger than min_score"
    limit = min(task.episode_limit, 12)
    try:
        ended = _play_four(replace(task, episode_limit=limit), 0, task.name)
    except DqlabError as error:
        if "pip install" in str(error) and isinstance(error.__cause__, ImportError):
            raise UncheckedError(message_of(error)) from error
        raise AssertionError(str(error)) from error
    assert ended, f"an episode goes on after its {limit} steps"


def check_env_backend(entry: RegistryEntry[EnvBackend]) -> None:
    """States (n, S), rewards, ends (m,); an episode is a function of seed, group and actions, whatever runs beside."""
    task = tasks.get("hopper-medium-v2")
    with unchecked(ConfigError):
        environments = entry.make()(task, "mujoco210")
        environments.prepare(2)
    assert isinstance(environments, Environments), "a backend must be derived from Environments"
    try:
        first, again = (_episode_pair(environments, task) for _ in range(2))
        check_same(again, first, "the same episode, begun again, goes otherwise")
        alone = environments.reset([4], [0])
        assert np.array_equal(alone[0], first[0][1]), "an episode's start depends on those that are begun with it"
        step = environments.step([0], np.full((1, task.action_dim), 0.5))
        assert np.array_equal(step.state[0], first[1][1]), "a step depends on the other environments"
    finally:
        environments.close()


def _episode_pair(environments: Environments, task: Task) -> list[Array]:
    """States, rewards and ends of two short episodes; the second is stepped alone at last."""
    found: list[Array] = [environments.reset([3, 4], [0, 0])]
    check_shape("states (n, S)", found[0], 2, task.state_dim)
    for which in ([0, 1], [0, 1], [1]):
        stepped = environments.step(which, np.full((len(which), task.action_dim), 0.5))
        for name, *width in (("state", task.state_dim), ("reward",), ("over",)):
            check_shape(name, np.asarray(getattr(stepped, name)), len(which), *width)
        assert np.asarray(stepped.over).dtype == np.bool_, "over must be of bools"
        found += [stepped.state, stepped.reward, stepped.over]
    assert not np.array_equal(found[0][0], found[0][1]), "the seed is ignored"
    return found


KEPT = (
    *("qpos0", "body_parentid", "body_pos", "body_quat", "body_jntnum", "body_geomnum", "body_gravcomp"),
    *("jnt_type", "jnt_pos", "jnt_axis", "jnt_range", "jnt_stiffness", "dof_damping", "dof_armature"),
    *("geom_type", "geom_size", "geom_pos", "geom_quat", "geom_friction", "geom_solref", "geom_solimp", "geom_margin"),
    *("geom_contype", "geom_conaffinity", "actuator_gear", "actuator_ctrlrange", "actuator_gainprm"),
    *("opt.timestep", "opt.gravity", "opt.integrator", "opt.cone", "opt.solver", "opt.iterations", "opt.tolerance"),
    *("opt.density", "opt.viscosity"),
)
"""Of a robot's shape, joints, contacts and motors, and of the simulation: no law about masses changes them."""


def check_physics(entry: RegistryEntry[Any]) -> None:
    """Masses and inertias alone change, are positive and possible, and the same each time; a fixed total mass stays."""
    import mujoco

    for task in (tasks.get("hopper-medium-v2"), tasks.get("halfcheetah-medium-v2")):
        assert task.body is not None
        before, model, again = (make_env(task, "modern").unwrapped.model for _ in range(3))
        for changed in (model, again):
            entry.make()(changed, task.body)
        for name in KEPT:
            values = map(attrgetter(name), (before, model))
            assert np.array_equal(*values), f"it changes {name}, which is not of masses and inertias"
        masses, inertias = model.body_mass[1:], model.body_inertia[1:]  # of real bodies: the world has neither
        assert model.body_mass[0] == 0, "the world has a mass"
        assert bool((masses > 0).all()), f"a mass is not positive: {masses.tolist()}"
        assert bool((inertias > 0).all()), f"an inertia is not positive: {inertias.tolist()}"
        possible = 2 * inertias.max(axis=1) <= inertias.sum(axis=1) * (1 + 1e-9)
        assert bool(possible.all()), "no body has such an inertia"
        assert np.allclose(np.linalg.norm(model.body_iquat, axis=1), 1.0), "the axes of an inertia are no rotation"
        fixed = task.body.total_mass or masses.sum()
        assert np.isclose(masses.sum(), fixed), f"a mass of {fixed} kg becomes {masses.sum():.2f}"
        assert np.array_equal(model.body_mass, again.body_mass), "twice, it gives other masses"
        assert np.array_equal(model.body_inertia, again.body_inertia), "twice, it gives other inertias"
        data = mujoco.MjData(model)
        mujoco.mj_step(model, data, 100)
        assert np.isfinite(data.qpos).all(), "the robot flies apart"
