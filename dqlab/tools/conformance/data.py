"""What components of data must do: sources, formats, reward transforms, and behaviours that collect episodes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
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
from dqlab.envs.tasks import tasks
from dqlab.errors import ConfigError, DataError, DqlabError, message_of
from dqlab.tools.collect.behaviours import Behaviour, PolicyBehaviour
from dqlab.tools.collect.ppo import BehaviourTraining, CollectionContext
from dqlab.tools.conformance.made import UncheckedError, check_pure, check_same, check_shape, unchecked

Array = NDArray[Any]
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
    with tempfile.TemporaryDirectory() as place:
        context = made_context(Path(place))
        with unchecked(DqlabError, why="it wants an argument: "):
            try:
                behaviour = entry.make()("nowhere", context)  # those that want a path or a module say there is none
            except DqlabError:
                behaviour = entry.make()("", context)  # that is no argument of its kind
            assert isinstance(behaviour, Behaviour), "a behaviour must be derived from Behaviour"
            if behaviour.trains or behaviour.records:
                raise UncheckedError("it needs PPO's checkpoints, which take a training")
            behaviour.prepare()
        check_prepared_behaviour(behaviour)


def made_context(folder: Path) -> CollectionContext:
    """Where behaviours act that train nothing: D4RL's hopper."""
    task = tasks.get("hopper-medium-v2")
    levels = dict.fromkeys(("medium", "expert"), ((0.0, 100.0), 50.0))
    return CollectionContext(task, True, BehaviourTraining(), levels, 1, folder, 0, lambda text: None)


def check_prepared_behaviour(behaviour: Behaviour) -> None:
    """What `check_behaviour` asks of one that is prepared."""
    assert isinstance(behaviour.about() or None, str), "about() must say what it is"
    if not isinstance(behaviour, PolicyBehaviour):
        return
    assert behaviour.identity() == behaviour.identity(), "its identity changes"
    task, rows = behaviour.context.task, behaviour.rows
    seen = np.random.default_rng(0).normal(size=(4, rows, task.state_dim))

    def acted(seed: int) -> Array:
        act = behaviour.begin(seed)
        return np.stack([np.asarray(act(observations.copy())) for observations in seen])

    first, second, again, once_more = map(acted, (7, 8, 8, 7))
    check_shape(f"actions of 4 steps, ({rows}, A) each", first, 4, rows, task.action_dim)
    assert bool((np.abs([first, second]) <= 1).all()), "an action is out of [-1, 1]"
    check_same((once_more, again), (first, second), "the same episodes, begun again, act otherwise")
