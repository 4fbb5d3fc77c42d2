"""Minari's datasets as a format: `minari:ID` in the local store."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import BOUNDS_METADATA
from dqlab.data.download import Progress, UnavailableError, no_progress, refuse_if_planning
from dqlab.data.formats.base import Columns, Format, checked_columns, data_formats
from dqlab.data.formats.minari_store import local_store, minari_errors, minari_package, open_local
from dqlab.data.formats.reading import check_room
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, first_line


@data_formats.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
class MinariFormat(Format):
    """A dataset in Minari's local store ($MINARI_DATASETS_PATH, or ~/.minari/datasets), named by its id.

    Paths are ids, such as `mujoco/walker2d/medium-v0`. Observations are the first T of an episode's T + 1, next
    observations the last T. A step that both terminated and was truncated counts as terminated; an episode's last step
    that neither did, as cut.
    """

    def read(self, path: Path) -> Columns:
        return columns_of(open_local(path.as_posix()))

    def place(self, path: Path) -> Path:
        minari_package()
        return local_store() / path


def columns_of(dataset: Any) -> Columns:
    """The columns of a Minari dataset.

    Raises:
        DataError: observations or actions are not flat, or there is no step.
    """
    key = key_of(dataset)
    width = sum(math.prod(space.shape) for space in (_observed(dataset, key), dataset.action_space)) + 3
    check_room(f"minari:{dataset.id}", 8 * width * int(dataset.total_steps))
    with minari_errors(dataset.id):
        parts = [_steps(episode, key) for episode in dataset.storage.get_episodes(dataset.episode_indices)]
    if not parts:
        raise DataError(f"The Minari dataset '{dataset.id}' has no step.")
    arrays: dict[str, NDArray[Any]] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return checked_columns(f"minari:{dataset.id}", arrays, metadata_of(dataset))


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


OBSERVATION = "observation"
"""The entry of Dict observations that is read."""


def key_of(dataset: Any) -> str:
    """The entry of Dict observations to be read; empty where observations are flat themselves.

    Raises:
        DataError: neither observations nor such an entry are flat, or actions are not.
    """
    key = OBSERVATION if OBSERVATION in getattr(dataset.observation_space, "spaces", {}) else ""
    for what, found in (("observations", _observed(dataset, key)), ("actions", dataset.action_space)):
        if not _is_flat(found):
            raise DataError(
                f"The Minari dataset '{dataset.id}' has {what} of {_brief(found)}: dqlab reads flat Box observations "
                f"(or Dict observations whose entry '{OBSERVATION}' is a flat Box) and flat Box actions only."
            )
    return key


def _observed(dataset: Any, key: str) -> Any:
    """The space of what is read of observations."""
    return dataset.observation_space[key] if key else dataset.observation_space


def _is_flat(space: Any) -> bool:
    from gymnasium.spaces import Box

    return isinstance(space, Box) and len(space.shape) == 1


def _brief(space: Any) -> str:
    """A space's kind and shape: its bounds may be pages long."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        return f"{type(space).__name__}({', '.join(sorted(inner))})"
    return f"{type(space).__name__}(shape {space.shape})"


FORMAL = {
    "total_episodes",
    "total_steps",
    "data_format",
    "jpeg_encoding",
    "observation_space",
    "action_space",
    "dataset_size",
    "dqlab",
}
"""Metadata that belong to Minari's storage, not to what is stored; earlier versions of dqlab wrote a `dqlab`."""


def metadata_of(dataset: Any) -> dict[str, str]:
    """What is said of a dataset, as text; what dqlab wrote under its own name is back under the names it had."""
    known = {name: value for name, value in dataset.storage.metadata.items() if value is not None}
    told = {name: _text(value) for name, value in known.items() if name not in FORMAL}
    if key_of(dataset):
        left_out = sorted(set(dataset.observation_space.spaces) - {OBSERVATION})
        told["observations"] = f"the entry '{OBSERVATION}'; left out: {', '.join(left_out) or 'nothing'}"
    space = dataset.action_space
    if np.isfinite([space.low, space.high]).all():
        told[BOUNDS_METADATA] = json.dumps({"stored": [space.low.tolist(), space.high.tolist()]})
    return {**told, **known.get("dqlab", {})}


def _text(value: Any) -> str:
    if isinstance(value, (set, list, tuple)):
        return ", ".join(sorted(map(str, value)))
    return value if isinstance(value, str) else json.dumps(value, default=str)


@data_sources.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
def minari(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
    """A dataset of Minari's, as `minari:ID`: from the local store, else fetched into it by Minari's own download.

    A task of Minari's has its own id: `minari` alone means that.

    Steps at which episodes were truncated are kept, with the observations that followed them.

    Args:
        task: whose states and actions the dataset has.
        argument: the dataset's id, such as `mujoco/walker2d/medium-v0`; by default the task's.
        progress: not used; Minari shows its own.
    """
    argument = argument or task.minari
    if not argument:
        raise ConfigError("The source minari wants a dataset's id: 'minari:mujoco/walker2d/medium-v0', for example.")
    if not (local_store() / argument).exists():
        fetch_minari(argument)
    mend = f"`minari download {argument} --force` replaces it."
    return LocatedDataset(Path(argument), is_d4rl=False, format=MinariFormat(), mend=mend)


def fetch_minari(name: str) -> None:
    """Let Minari download a dataset into its store.

    Raises:
        UnavailableError: Minari cannot fetch it; the message says why.
    """
    refuse_if_planning(f"minari:{name}")
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari_package().download_dataset(name)
    except ConfigError:
        raise
    except Exception as error:  # of whatever its storages use: HTTP clients, OSError, ValueError, ImportError
        raise UnavailableError(f"Minari cannot fetch '{name}': {first_line(error).rstrip('.')}") from error
