"""Minari's datasets, in its local store or fetched into it: the format `minari:ID`, and the source of that name."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.download import MINARI_STORE, Progress, UnavailableError, minari_store, no_progress, refuse_if_planning
from dqlab.data.formats import base
from dqlab.data.formats.base import Columns, Format, data_formats
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.data.transitions import BOUNDS_METADATA
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, first_line, nearest, pip_install
from dqlab.files import size_of

OBSERVATION = "observation"  # the entry of Dict observations that is read
FORMAL = {"total_episodes", "total_steps", "data_format", "jpeg_encoding", "observation_space", "action_space"}
FORMAL |= {"dataset_size", "dqlab"}
"""Metadata that belong to Minari's storage, not to what is stored; earlier versions of dqlab wrote a `dqlab`."""


@data_formats.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
class MinariFormat(Format):
    """A dataset in Minari's local store ($MINARI_DATASETS_PATH, or ~/.minari/datasets), named by its id.

    Paths are ids, such as `mujoco/walker2d/medium-v0`. Observations are the first T of an episode's T + 1, next
    observations the last T. A step that both terminated and was truncated counts as terminated; an episode's last step
    that neither did, as cut.
    """

    def read(self, path: Path) -> Columns:
        place = self.place(path)
        if place.exists():
            base.read_in_child(f"The Minari dataset in {place}", size_of(place), partial(self._read, path))
        return self._read(path)

    def _read(self, path: Path) -> Columns:
        minari, name = _minari_package(), path.as_posix()
        from gymnasium.spaces import Box

        if not (minari_store() / name).exists():
            hint = nearest(name, known) if (known := stored_datasets()) else "The store is empty."
            there = f"There is no Minari dataset '{name}' in {minari_store()}"
            raise DataError(f"{there}. {hint} `minari download {name}` fetches it.")
        with _minari_errors(name):
            dataset = minari.load_dataset(name)
            key = OBSERVATION if OBSERVATION in getattr(dataset.observation_space, "spaces", {}) else ""
            observed = dataset.observation_space[key] if key else dataset.observation_space
            for what, space in (("observations", observed), ("actions", dataset.action_space)):
                if not isinstance(space, Box) or len(space.shape) != 1:
                    inner = getattr(space, "spaces", None)  # a space's bounds may be pages long
                    shape = ", ".join(sorted(inner)) if isinstance(inner, Mapping) else f"shape {space.shape}"
                    raise DataError(
                        f"The Minari dataset '{name}' has {what} of {type(space).__name__}({shape}): dqlab reads flat "
                        f"Box observations (or a Dict's entry '{OBSERVATION}' that is one) and flat Box actions only."
                    )
            width = sum(math.prod(space.shape) for space in (observed, dataset.action_space)) + 3
            base.check_room(f"minari:{dataset.id}", 8 * width * int(dataset.total_steps))
            parts = [_steps(episode, key) for episode in dataset.storage.get_episodes(dataset.episode_indices)]
        if not parts:
            raise DataError(f"The Minari dataset '{dataset.id}' has no step.")
        arrays: dict[str, NDArray[Any]] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return base.checked_columns(f"minari:{dataset.id}", arrays, _metadata(dataset, key))

    def place(self, path: Path) -> Path:
        _minari_package()
        return minari_store() / path


def _minari_package() -> Any:
    """The package, or a line that says how it is installed."""
    try:
        import minari
    except ImportError as error:
        advice = f"{pip_install('minari')} (Python 3.11 or later)"
        raise ConfigError(f"Minari's datasets need the package minari ({error}): {advice}.") from error
    if MINARI_STORE in os.environ:
        os.environ[MINARI_STORE] = str(minari_store())  # minari takes ~ for a folder's name
    return minari


def stored_datasets() -> Mapping[str, Mapping[str, Any]]:
    """Metadata of the datasets in the store, by id; Minari need not be installed."""
    found = {}
    for path in sorted(minari_store().rglob("data/metadata.json")):
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text())
            if isinstance(known, dict) and "total_steps" in known:  # not another program's
                found[path.parents[1].relative_to(minari_store()).as_posix()] = known
    return found


@contextmanager
def _minari_errors(name: str) -> Iterator[None]:
    """Whatever Minari and its storages raise while they read becomes one message."""
    where = f"The Minari dataset '{name}' in {minari_store() / name}"
    with base.reading_errors(where, "cannot be read: it is damaged, or not Minari's"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # of storages, spaces and environments
            if "does not support the dataset" in str(error):
                raise base.UnreadError(f"{where} is of another version: {first_line(error)}") from error
            if type(error).__module__.startswith("gymnasium."):
                said = f"{where} names an environment that is not known here ({first_line(error)})"
                raise base.UnreadError(f"{said}. Import the module that registers it: --plugin MODULE.") from error
            raise


def _steps(episode: Mapping[str, Any], key: str) -> dict[str, NDArray[Any]]:
    """One episode's T steps by the names of `Columns`; its last one ends it."""
    states = np.asarray(episode["observations"][key] if key else episode["observations"])
    terminals = np.asarray(episode["terminations"], dtype=bool).reshape(-1)
    steps = len(terminals)
    if len(states) != steps + 1:
        raise ValueError(f"episode {episode['id']} has {len(states)} observations for {steps} steps")
    timeouts = np.asarray(episode["truncations"], dtype=bool).reshape(-1) | (np.arange(steps) == steps - 1)
    return {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": np.asarray(episode["actions"]),
        "rewards": np.asarray(episode["rewards"]).reshape(-1),
        "terminals": terminals,
        "timeouts": timeouts & ~terminals,
    }


def _metadata(dataset: Any, key: str) -> dict[str, str]:
    """What is said of a dataset, as text; what dqlab wrote under its own name is back under the names it had."""

    def text(value: Any) -> str:
        if isinstance(value, (set, list, tuple)):
            return ", ".join(sorted(map(str, value)))
        return value if isinstance(value, str) else json.dumps(value, default=str)

    known = {name: value for name, value in dataset.storage.metadata.items() if value is not None}
    told = {name: text(value) for name, value in known.items() if name not in FORMAL}
    if dataset.env_spec is not None:
        told[base.ENVIRONMENT] = str(dataset.env_spec.id)
    if key:
        left_out = sorted(set(dataset.observation_space.spaces) - {key})
        told["observations"] = f"the entry '{key}'; left out: {', '.join(left_out) or 'nothing'}"
    space = dataset.action_space
    if np.isfinite([space.low, space.high]).all():
        told[BOUNDS_METADATA] = json.dumps({"stored": [space.low.tolist(), space.high.tolist()]})
    return {**told, **known.get("dqlab", {})}


@data_sources.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
def minari(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
    """A dataset of Minari's, as `minari:ID`: from the local store, else fetched into it by Minari's own download.

    Steps at which episodes were truncated are kept, with the observations that followed them.

    Args:
        task: whose states and actions the dataset has.
        argument: the dataset's id, such as `mujoco/walker2d/medium-v0`; by default the task's own.
        progress: not used; Minari shows its own.
    """
    name = argument or task.minari
    if not name:
        raise ConfigError("The source minari wants a dataset's id: 'minari:mujoco/walker2d/medium-v0', for example.")
    if not (minari_store() / name).exists():
        refuse_if_planning(f"minari:{name}")
        package = _minari_package()
        try:
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                package.download_dataset(name)
        except Exception as error:  # of whatever its storages use: HTTP clients, OSError, ValueError, ImportError
            raise UnavailableError(f"Minari cannot fetch '{name}': {first_line(error).rstrip('.')}") from error
    mend = f"`minari download {name} --force` replaces it."
    return LocatedDataset(Path(name), is_d4rl=False, format=MinariFormat(), mend=mend)
