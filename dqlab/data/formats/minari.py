"""Minari's datasets as a format: `minari:ID` in the local store."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.data.formats.base import Column, Columns, Format, data_formats
from dqlab.data.formats.minari_columns import FORMAL, columns_of
from dqlab.data.formats.steps import BLOCK, Steps, episodes
from dqlab.data.minari_store import facts, folder_of, library, load, store
from dqlab.errors import DataError
from dqlab.machine import available_disk, in_words
from dqlab.swap import new_folder

PROSE = {"description", "algorithm_name", "code_permalink"}
PEOPLE = {"author", "author_email"}
"""Metadata that Minari shows; all others of ours stand under `dqlab`."""

OWN = FORMAL | {"dataset_id", "minari_version", "env_spec"}


EPISODE = 16_384
"""Bytes that HDF5 takes for an episode beside its numbers: 14 kB, measured."""

REASON = re.compile(r"error message = '([^']*)'")
"""Where HDF5's messages say what the system said."""


@data_formats.register("minari", source="Minari (Younis et al. 2024)")
class MinariFormat(Format):
    """A dataset in Minari's local store ($MINARI_DATASETS_PATH, or ~/.minari/datasets), named by its id."""

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        """As in `Format`; `path` is the id, such as `mujoco/walker2d/medium-v0`.

        Observations are the first T of an episode's T + 1, next observations the last T. A step that both terminated
        and was truncated counts as terminated; an episode's last step that neither did, as cut.
        """
        yield columns_of(load(path.as_posix()))

    def place(self, path: Path) -> Path:
        """The dataset's folder in the store."""
        return folder_of(path.as_posix())

    def write(self, path: Path, columns: Columns) -> None:
        """As in `Format`: written beside the store's datasets under a hidden name, checked, and then renamed.

        Without next observations, rows at which an episode was cut give their observation only, as in D4RL's view.
        Episodes end where next observations do not follow on. An episode at a time is in memory.
        """
        library()
        name = path.as_posix()
        folder = folder_of(name)
        _check_room(name, columns)
        with _writable(name), new_folder(folder, lambda old: bool(facts(old)), "a Minari dataset") as temporary:
            steps = _write(temporary, name, columns)
            _make_namespaces(name)
        if (found := load(name).total_steps) != steps:
            raise DataError(f"Minari reads {found} steps of the {steps} that were written to '{name}' in {store()}.")


def _check_room(name: str, columns: Columns) -> None:
    """Refuse what will not fit: HDF5's library does not always survive a full disk."""
    stored = (columns.observations, columns.actions, columns.rewards)
    numbers = sum(math.prod(column.shape) * int(column.dtype.itemsize) for column in stored)
    ends = sum(int(flags[:].astype(bool).sum()) for flags in (columns.terminals, columns.timeouts) if flags is not None)
    needed, free = numbers + EPISODE * (ends + 1), available_disk(store())
    if needed > free:
        raise DataError(
            f"The Minari dataset '{name}' needs about {in_words(needed)}, and {store()} has {in_words(free)} free. "
            "Free some space, or set MINARI_DATASETS_PATH to another folder."
        )


@contextmanager
def _writable(name: str) -> Iterator[None]:
    """Full disks and read-only stores, as one message."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # h5py raises all of them
        why = REASON.search(str(error))
        raise DataError(
            f"Cannot write the Minari dataset '{name}' to {store()}: {why.group(1) if why else error}. "
            "Free some space, or set MINARI_DATASETS_PATH to another folder."
        ) from error


def _write(folder: Path, name: str, columns: Columns) -> int:
    """Write a whole dataset into a folder; returns how many steps it has."""
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.new(
        folder / "data",
        observation_space=_space(columns.observations, np.inf),
        action_space=_space(columns.actions, _bound(columns.actions)),
        env_spec=_environment(columns.metadata),
    )
    storage.update_metadata(_metadata(name, columns.metadata))
    steps = 0
    for batch in _batches(columns):
        storage.update_episodes([_buffer(episode) for episode in batch])
        steps += sum(map(len, batch))
    if not steps:
        raise DataError(f"There is nothing to write to '{name}': no row has a next observation.")
    return steps


def _batches(columns: Columns) -> Iterator[list[Steps]]:
    """Whole episodes, of about a block of rows together."""
    batch: list[Steps] = []
    for episode in episodes(columns):
        batch.append(episode)
        if sum(map(len, batch)) >= BLOCK:
            yield batch
            batch = []
    if batch:
        yield batch


def _buffer(episode: Steps) -> Any:
    from minari.data_collector import EpisodeBuffer

    return EpisodeBuffer(
        observations=np.concatenate([episode.observations, episode.next_observations[-1:]]),  # type: ignore[arg-type]
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=episode.terminals,
        truncations=episode.timeouts,
    )


def _space(column: Column, bound: float) -> Any:
    from gymnasium.spaces import Box

    dtype = column.dtype if np.issubdtype(column.dtype, np.floating) else np.float32
    return Box(-bound, bound, column.shape[1:], dtype)


def _bound(actions: Column) -> float:
    """1, as in D4RL, unless an action lies outside."""
    blocks = (actions[start : start + BLOCK] for start in range(0, actions.shape[0], BLOCK))
    return 1.0 if all(np.abs(block).max() <= 1.0 for block in blocks) else np.inf


def _environment(metadata: Mapping[str, str]) -> Any:
    """The environment's specification, where the metadata have one as Gymnasium writes it."""
    from gymnasium.envs.registration import EnvSpec

    return EnvSpec.from_json(metadata["env_spec"]) if "env_spec" in metadata else None


def _metadata(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Minari's own entries for what it shows, everything else under `dqlab`."""
    prose = {key: metadata[key] for key in PROSE & set(metadata)}
    people = {key: set(metadata[key].split(", ")) for key in PEOPLE & set(metadata)}
    rest = {key: text for key, text in metadata.items() if key not in PROSE | PEOPLE | OWN}
    return {"dataset_id": name, "minari_version": library().__version__, **prose, **people, "dqlab": rest}


def _make_namespaces(name: str) -> None:
    """Tell Minari of the id's namespace."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = parse_dataset_id(name)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)
