"""What environments and data must do: tasks, backends, physics; sources, formats, rewards, behaviours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import RegistryEntry
from dqlab.data.download import MINARI_STORE, UnavailableError, no_downloads, no_progress
from dqlab.data.formats.base import Columns, Format, checked_columns
from dqlab.data.rewards import RewardTransform, reward_transforms
from dqlab.data.sources import DataSource, LocatedDataset
from dqlab.data.transitions import q_learning_view
from dqlab.envs import make_env
from dqlab.envs.backend import EnvBackend, Environments
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DataError, DqlabError, message_of
from dqlab.tools.collect.behaviours import Behaviour, PolicyBehaviour
from dqlab.tools.collect.ppo import BehaviourTraining, CollectionContext
from dqlab.tools.conformance.made import UncheckedError, check_pure, check_same, check_shape, unchecked

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
    with ExitStack() as opened:
        copies = [opened.enter_context(closing(make_env(task))) for _ in range(2)]
        space = copies[0].action_space
        assert bool((space.low == -1).all() and (space.high == 1).all()), f"actions must lie in [-1, 1], not in {space}"
        chosen = enumerate((rest, low, high, drawn), seed)
        ended = [_play(copies, actions, number, name) for number, actions in chosen]
        return all(ended)


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
    with closing(environments):
        first, again = (_episode_pair(environments, task) for _ in range(2))
        check_same(again, first, "the same episode, begun again, goes otherwise")
        alone = environments.reset([4], [0])
        assert np.array_equal(alone[0], first[0][1]), "an episode's start depends on those that are begun with it"
        step = environments.step([0], np.full((1, task.action_dim), 0.5))
        assert np.array_equal(step.state[0], first[1][1]), "a step depends on the other environments"


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


ROBOTS = ("walker2d-medium-expert-v2", "hopper-medium-v2", "antmaze-umaze-v0", "bandit-2d")
"""Tasks whose data sources are asked for."""


def check_reward_transform(entry: RegistryEntry[RewardTransform]) -> None:
    """Finite float32 (n,) for rewards (n,) and returns, large and sparse ones too; a function of both alone."""
    transform, draw = entry.make(), np.random.default_rng(0)
    dense, sparse = draw.normal(2.0, 3.0, 90), (draw.uniform(size=90) > 0.9) * 1.0
    for values in (dense, sparse, 1e6 * dense):
        reward, returns = values.astype(np.float32), values.reshape(9, 10).sum(axis=1)
        out = transform(reward.copy(), returns.copy())
        assert isinstance(out, np.ndarray), f"it gives {type(out).__name__} instead of an array"
        check_shape("what it gives", out, *reward.shape)
        assert out.dtype == np.float32, f"it gives {out.dtype} for float32"
        assert np.isfinite(out).all(), "a reward is not finite"
        check_pure(transform, reward, returns)
    with suppress(DataError):  # where all are equal, it may say that it cannot be used
        out = transform(np.ones(20, np.float32), np.full(2, 10.0))
        assert np.isfinite(out).all(), "equal rewards become something that is not finite"


def check_data_format(entry: RegistryEntry[type[Format]]) -> None:
    """Transitions that are written are read back, to the last bit, with one digest; what is damaged is refused."""
    chosen = entry.make()()
    assert isinstance(chosen, Format), "a format must be derived from Format"
    with tempfile.TemporaryDirectory() as store, patch.dict(os.environ, {MINARI_STORE: store}):
        folder = Path(store)
        paths = [folder / f"{name}{chosen.suffixes[0]}" for name in ("plain", "followed") if chosen.suffixes]
        paths = paths or [Path("made/plain-v0"), Path("made/followed-v0")]  # where datasets are not files
        with unchecked(DqlabError):  # it is not installed, or takes names of its own
            place = chosen.place(paths[0])
        if folder not in place.parents:
            raise UncheckedError(f"it keeps datasets in a store of its own, such as {place}")
        with unchecked(ConfigError, "pip install"), unchecked(ConfigError, "only read"):
            written = [path for path in paths if _is_written(chosen, path, followed=path == paths[1])]
        assert written, "it can say neither of two sets of float32, with next observations and without"
        for path in written:
            place = chosen.place(path)
            for file in [place, *place.rglob("*")]:
                if file.is_file():
                    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            for what, where in (("damaged", path), ("missing", path.with_name(f"no{path.name}"))):
                with suppress(DataError):
                    _transitions(chosen.read(where))
                    raise AssertionError(f"a dataset that is {what} is read")


def _is_written(chosen: Format, path: Path, followed: bool) -> bool:
    """Write a made set and read it back as it was; False where the format cannot say what is in it."""
    columns = _made_columns(followed)
    try:
        chosen.write(path, columns)
    except DataError:
        return False
    read = chosen.read(path)
    assert isinstance(read, Columns), f"it reads a {type(read).__name__} instead of Columns"
    if read.next_observations is None:  # rows at which an episode was cut make no transition then, as in D4RL's files
        columns = replace(columns, next_observations=None)
    told = read.metadata.get("about", "made up")  # a format need not have a place for it
    assert told == "made up", f"metadata are read back as '{told}'"
    before, after = _transitions(columns), _transitions(read)
    for name, value in before._asdict().items():
        check_same(getattr(after, name), value, f"{name} is read back with other values, or in another shape")
    assert chosen.place(path).exists(), f"nothing lies at {chosen.place(path)}, its place"
    assert chosen.digest(path) == chosen.digest(path), "the digest of a dataset changes"
    other = path.with_name(f"other-{path.name}")
    chosen.write(other, replace(columns, rewards=columns.rewards + np.float32(1)))
    assert chosen.digest(other) != chosen.digest(path), "two datasets have one digest"
    return True


def _made_columns(followed: bool) -> Columns:
    """Three short episodes of float32: one ends, one is cut, one goes on; with next observations and masks, or not."""
    draw, rows = np.random.default_rng(0), np.arange(18)
    observations = draw.normal(size=(18, 4)).astype(np.float32)
    arrays: dict[str, Any] = {
        "observations": observations,
        "actions": draw.uniform(-1, 1, (18, 2)).astype(np.float32),
        "rewards": draw.normal(size=18).astype(np.float32),
        "terminals": rows == 4,
        "timeouts": (rows == 11) | (rows == 17),
    }
    if followed:
        following = np.roll(observations, -1, axis=0)
        following[[4, 11, 17]] = draw.normal(size=(3, 4))
        arrays |= {"next_observations": following, "masks": rows % 7 != 2}
    return checked_columns("a made set", arrays, {"about": "made up"})


def _transitions(columns: Columns) -> Any:
    origin = {"source": "made", "path": "", "digest": "", "is_d4rl": False}
    return q_learning_view(columns, 1000, reward_transforms.get("none"), origin, next_action=True).fields


def check_data_source(entry: RegistryEntry[DataSource]) -> None:
    """Columns as wide as the task's, with a digest that stays; or UnavailableError, or what else it wants to be told.

    Nothing is fetched: a source asks `refuse_if_planning` before it does.
    """
    source, reasons = entry.make(), []
    for task in (tasks.get(name) for name in ROBOTS):
        try:
            with no_downloads():
                found = source(task, "", no_progress)
        except UnavailableError as error:
            reasons.append(message_of(error))
            continue
        except (ConfigError, DataError) as error:
            raise UncheckedError(f"it wants an argument: {message_of(error)}") from error
        assert isinstance(found, LocatedDataset), f"it gives a {type(found).__name__} instead of a LocatedDataset"
        assert found.digest() == found.digest(), "the digest of a dataset changes"
        columns = found.read(task)
        assert isinstance(columns, Columns), f"it reads a {type(columns).__name__} instead of Columns"
        for name, width in (("observations", task.state_dim), ("actions", task.action_dim)):
            check_shape(f"{name} of {task.name}", getattr(columns, name), len(columns), width)
        for field in fields(columns):
            column = getattr(columns, field.name)
            assert not hasattr(column, "shape") or column.shape[0] == len(columns), f"{field.name} has other rows"
    if len(reasons) == len(ROBOTS):
        raise UncheckedError(reasons[0])


def check_behaviour(entry: RegistryEntry[Callable[[str, CollectionContext], Behaviour]]) -> None:
    """Actions (G, A) in [-1, 1]; an episode's are a function of the policy, its number and its own observations."""
    task = tasks.get("hopper-medium-v2")
    levels = dict.fromkeys(("medium", "expert"), ((0.0, 100.0), 50.0))
    with tempfile.TemporaryDirectory() as place:
        context = CollectionContext(task, True, BehaviourTraining(), levels, 1, Path(place), 0, lambda text: None)
        with unchecked(DqlabError, why="it wants an argument: "):
            try:
                behaviour = entry.make()("nowhere", context)  # those that want a path say there is none
            except DqlabError:
                behaviour = entry.make()("", context)  # that is no argument of its kind
            assert isinstance(behaviour, Behaviour), "a behaviour must be derived from Behaviour"
            if behaviour.trains or behaviour.records:
                raise UncheckedError("it needs PPO's checkpoints, which take a training")
            behaviour.prepare()
        assert isinstance(behaviour.about() or None, str), "about() must say what it is"
        if isinstance(behaviour, PolicyBehaviour):
            assert behaviour.identity() == behaviour.identity(), "its identity changes"
            rows = behaviour.rows
            seen = np.random.default_rng(0).normal(size=(4, rows, task.state_dim))
            begun = (behaviour.begin(seed) for seed in (7, 8, 8, 7))
            taken = [np.stack([np.asarray(act(observations.copy())) for observations in seen]) for act in begun]
            first, second, again, once_more = taken
            check_shape(f"actions of 4 steps, ({rows}, A) each", first, 4, rows, task.action_dim)
            assert bool((np.abs([first, second]) <= 1).all()), "an action is out of [-1, 1]"
            check_same((once_more, again), (first, second), "the same episodes, begun again, act otherwise")
