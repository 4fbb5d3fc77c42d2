"""Minari's datasets as a format: `minari:ID` in the local store."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import BOUNDS_METADATA
from dqlab.data.download import Progress, UnavailableError, no_progress, refuse_if_planning
from dqlab.data.formats.base import Column, Columns, Format, checked_columns, data_formats, whole_columns
from dqlab.data.formats.minari_store import (
    check_local,
    check_version,
    folder_of,
    is_whole,
    local_store,
    minari_errors,
    minari_package,
    open_local,
    stored_facts,
)
from dqlab.data.formats.reading import check_room, write_errors
from dqlab.data.rows import cuts_of, transition_episodes
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, first_line
from dqlab.files import new_folder

STORE_ADVICE = "Free some space, or set MINARI_DATASETS_PATH to another folder."


@data_formats.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
class MinariFormat(Format):
    """A dataset in Minari's local store ($MINARI_DATASETS_PATH, or ~/.minari/datasets), named by its id.

    Paths are ids, such as `mujoco/walker2d/medium-v0`. Observations are the first T of an episode's T + 1, next
    observations the last T. A step that both terminated and was truncated counts as terminated; an episode's last step
    that neither did, as cut.
    """

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        check_local(path.as_posix())
        columns = columns_of(open_local(path.as_posix()))
        yield columns

    def place(self, path: Path) -> Path:
        return folder_of(path.as_posix())

    def write(self, path: Path, columns: Columns) -> None:
        """Write a dataset, whole or not at all: beside the store's others under a hidden name, checked, then renamed.

        Without next observations, rows at which an episode was cut give their observation only, as in D4RL's view.
        Episodes end where next observations do not follow on.
        """
        name = path.as_posix()
        folder = folder_of(name)
        whole = new_folder(folder, lambda old: bool(stored_facts(old)), "a Minari dataset")
        with write_errors(f"the Minari dataset '{name}' to {local_store()}", STORE_ADVICE), whole as temporary:
            steps = _write_apart(temporary, name, columns)
            _make_namespaces(name)
        if (found := open_local(name).total_steps) != steps:
            raise DataError(
                f"Minari reads {found} steps of the {steps} that were written to '{name}' in {local_store()}."
            )


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
    arrays: dict[str, Column] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
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


def _write_apart(folder: Path, name: str, columns: Columns) -> int:
    """Write in a process of its own, for HDF5's library may crash when a disk is full."""
    from minari.dataset.minari_storage import MinariStorage  # noqa: F401  once, not in every process

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_written, args=(there, folder, name, columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be threads; the child uses none of their locks
        process.start()
    there.close()
    try:
        written = here.recv()
    except EOFError as error:
        raise OSError("HDF5's library crashed") from error
    finally:
        process.join()
    if isinstance(written, Exception):
        raise written
    return int(written)


def _send_written(pipe: Connection, folder: Path, name: str, columns: Columns) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # h5py tells of each object that it cannot close
    try:
        pipe.send(_write(folder, name, columns))
    except Exception as error:
        pipe.send(error)


def _write(folder: Path, name: str, columns: Columns) -> int:
    """Write a whole dataset into a folder; gives how many steps it has."""
    from minari.dataset.minari_storage import MinariStorage

    columns = Columns(**whole_columns(columns), metadata=columns.metadata)
    episodes = list(_episodes(columns))
    if not episodes:
        raise DataError(f"There is nothing to write to '{name}': no row has a next observation.")
    bound = 1.0 if np.abs(np.asarray(columns.actions)).max() <= 1.0 else np.inf
    storage = MinariStorage.new(
        folder / "data",
        observation_space=_space(columns.observations, np.inf),
        action_space=_space(columns.actions, bound),
        env_spec=_environment(columns.metadata),
    )
    storage.update_metadata(_metadata(name, columns.metadata))
    storage.update_episodes(episodes)
    return sum(len(episode.rewards) for episode in episodes)


def _episodes(columns: Columns) -> Iterator[Any]:
    """The transitions of columns in memory as Minari writes episodes; one that does not end in a terminal was cut."""
    from minari.data_collector import EpisodeBuffer

    states: Any = columns.observations
    following: Any = states[1:] if columns.next_observations is None else columns.next_observations
    actions, rewards = np.asarray(columns.actions), np.asarray(columns.rewards)
    terminals = np.asarray(columns.terminals).astype(bool)
    cuts = cuts_of(terminals, None if columns.timeouts is None else np.asarray(columns.timeouts).astype(bool), None)
    for rows in transition_episodes(columns, terminals, cuts):
        yield EpisodeBuffer(
            observations=np.concatenate([states[rows], following[rows[-1:]]]),
            actions=actions[rows],
            rewards=rewards[rows],
            terminations=terminals[rows],
            truncations=(rows == rows[-1]) & ~terminals[rows],
        )


def _space(column: Column, bound: float) -> Any:
    from gymnasium.spaces import Box

    dtype = column.dtype if np.issubdtype(column.dtype, np.floating) else np.float32
    return Box(-bound, bound, column.shape[1:], dtype)


def _environment(metadata: Mapping[str, str]) -> Any:
    """The environment's specification, where the metadata have one as Gymnasium writes it."""
    from gymnasium.envs.registration import EnvSpec

    try:
        return EnvSpec.from_json(metadata["env_spec"])
    except (KeyError, ValueError, TypeError):  # none, or another library's
        return None


def _make_namespaces(name: str) -> None:
    """Tell Minari of the id's namespace."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = parse_dataset_id(name)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)


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
"""Metadata that belong to Minari's storage, not to what is stored."""
PROSE = {"description", "algorithm_name", "code_permalink"}
PEOPLE = {"author", "author_email"}
"""Metadata that Minari shows; all others of ours stand under `dqlab`."""
OWN = FORMAL | {"dataset_id", "minari_version", "env_spec"}


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


def _metadata(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Minari's own entries for what it shows, everything else under `dqlab`."""
    prose = {key: metadata[key] for key in PROSE & set(metadata)}
    people = {key: set(metadata[key].split(", ")) for key in PEOPLE & set(metadata)}
    rest = {key: text for key, text in metadata.items() if key not in PROSE | PEOPLE | OWN}
    return {"dataset_id": name, "minari_version": minari_package().__version__, **prose, **people, "dqlab": rest}


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@data_sources.register("minari", source="Minari (Younis et al. 2024)", cites=("younis2024minari",))
def minari(task: Task, argument: str = "", progress: Progress = no_progress) -> LocatedDataset:
    """A dataset of Minari's, as `minari:ID`: from the local store, else fetched into it by Minari's own download.

    Steps at which episodes were truncated are kept, with the observations that followed them.

    Args:
        task: whose states and actions the dataset has.
        argument: the dataset's id, such as `mujoco/walker2d/medium-v0`.
        progress: not used; Minari shows its own.
    """
    if not argument:
        raise ConfigError("The source minari wants a dataset's id: 'minari:mujoco/walker2d/medium-v0', for example.")
    folder = folder_of(argument)
    if not is_whole(folder):
        check_version(argument)  # what another version wrote is not to be overwritten
        fetch_minari(argument)
    mend = f"`minari download {argument} --force` replaces it."
    return LocatedDataset(Path(argument), is_d4rl=False, format=MinariFormat(), mend=mend)


def fetch_minari(name: str) -> None:
    """Let Minari download a dataset into its store, or the rest of it where that broke off.

    Raises:
        UnavailableError: Minari's server cannot be reached, or does not have it.
        DataError: there is no room for it.
    """
    refuse_if_planning(f"minari:{name}")
    folder = folder_of(name)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari_package().download_dataset(name, force_download=folder.exists())
    except Exception as error:  # of whatever its storages use: HTTP clients, OSError, ValueError, ImportError
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DataError(
                f"Cannot write to {local_store()}: {error}. Set MINARI_DATASETS_PATH to another folder."
            ) from error
        raise UnavailableError(f"Minari cannot fetch '{name}': {first_line(error).rstrip('.')}") from error
    if not is_whole(folder):
        raise UnavailableError(f"Minari fetched '{name}', but not all of it is in {folder}")
