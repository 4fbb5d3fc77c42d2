"""A Minari dataset as columns: episode after episode, a few of them in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import STORED
from dqlab.data.formats.base import Column, Columns
from dqlab.data.formats.checking import checked
from dqlab.data.formats.steps import BLOCK
from dqlab.data.minari_store import readable
from dqlab.errors import DataError

Arrays = Mapping[str, NDArray[Any]]

OBSERVATION = "observation"
"""The entry of Dict observations that is read."""

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


class Episodes:
    """The steps of a dataset's episodes, as rows; those asked for last are kept.

    Args:
        dataset: Minari's.

    Raises:
        DataError: observations or actions are not flat.
    """

    def __init__(self, dataset: Any) -> None:
        self.name: str = dataset.id
        self._dataset, self._key = dataset, key_of(dataset)
        with readable(self.name):
            lengths = [int(facts["total_steps"]) for facts in dataset.storage.get_episode_metadata(self._ids())]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._range, self._held = (0, 0), {}  # type: tuple[int, int], Arrays

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int) -> Arrays:
        """Rows [start, stop) of every column."""
        if (start, stop) != self._range:
            self._range, self._held = (start, stop), self._read(start, stop)
        return self._held

    def _ids(self) -> list[int]:
        return [int(episode) for episode in self._dataset.episode_indices]

    def _read(self, start: int, stop: int) -> Arrays:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = max(int(np.searchsorted(self._starts, stop, side="left")), first + 1)
        with readable(self.name):
            parts = [self._steps(episode) for episode in self._dataset.storage.get_episodes(self._ids()[first:last])]
            offset = start - int(self._starts[first])
            return {name: np.concatenate([p[name] for p in parts])[offset : offset + stop - start] for name in parts[0]}

    def _steps(self, episode: Mapping[str, Any]) -> Arrays:
        """One episode's steps; its last one ends it, whatever is recorded."""
        states = np.asarray(episode["observations"][self._key] if self._key else episode["observations"])
        terminals = np.asarray(episode["terminations"], dtype=bool).reshape(-1)
        steps = len(terminals)
        if len(states) != steps + 1:
            raise ValueError(f"episode {episode['id']} has {len(states)} observations for {steps} steps")
        timeouts = np.asarray(episode["truncations"], dtype=bool).reshape(-1)
        timeouts = (timeouts | (np.arange(steps) == steps - 1)) & ~terminals
        return {
            "observations": states[:-1],
            "actions": np.asarray(episode["actions"]),
            "rewards": np.asarray(episode["rewards"]).reshape(-1),
            "terminals": terminals,
            "timeouts": timeouts,
            "next_observations": states[1:],
        }


class EpisodeColumn:
    """One column of `Episodes`."""

    def __init__(self, episodes: Episodes, name: str) -> None:
        self._episodes, self._name = episodes, name
        sample = episodes.rows(0, 1)[name]
        self.shape: tuple[int, ...] = (len(episodes), *sample.shape[1:])
        self.dtype = sample.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, step = rows.indices(len(self._episodes))
        if step < 1:
            raise ValueError("rows are read forwards")
        pieces = [(first, min(first + BLOCK, stop)) for first in range(start, stop, BLOCK)]
        if not pieces:
            return np.empty((0, *self.shape[1:]), dtype=self.dtype)
        return np.concatenate([self._episodes.rows(*piece)[self._name] for piece in pieces])[::step]


def columns_of(dataset: Any) -> Columns:
    """The columns of a Minari dataset, read as they are asked for.

    Raises:
        DataError: observations or actions are not flat, or there is no step.
    """
    episodes = Episodes(dataset)
    if not len(episodes):
        raise DataError(f"The Minari dataset '{episodes.name}' has no step.")
    columns: dict[str, Column] = {name: EpisodeColumn(episodes, name) for name in episodes.rows(0, 1)}
    return checked(f"minari:{episodes.name}", columns, metadata_of(dataset))


def key_of(dataset: Any) -> str:
    """The entry of Dict observations to be read; empty where observations are flat themselves.

    Raises:
        DataError: neither observations nor such an entry are flat, or actions are not.
    """
    spaces = {"": dataset.observation_space}
    if OBSERVATION in (inner := getattr(dataset.observation_space, "spaces", {})):
        spaces = {OBSERVATION: inner[OBSERVATION]}
    ((key, space),) = spaces.items()
    for what, found in (("observations", space), ("actions", dataset.action_space)):
        if not _is_flat(found):
            raise DataError(
                f"The Minari dataset '{dataset.id}' has {what} of {_brief(found)}: dqlab reads flat Box observations "
                f"(or Dict observations whose entry '{OBSERVATION}' is a flat Box) and flat Box actions only."
            )
    return key


def _is_flat(space: Any) -> bool:
    from gymnasium.spaces import Box

    return isinstance(space, Box) and len(space.shape) == 1


def _brief(space: Any) -> str:
    """A space's kind and shape: its bounds may be pages long."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        return f"{type(space).__name__}({', '.join(sorted(inner))})"
    return f"{type(space).__name__}(shape {space.shape})"


def metadata_of(dataset: Any) -> dict[str, str]:
    """What is said of a dataset, as text; what dqlab wrote under its own name is back under the names it had."""
    known = {name: value for name, value in dataset.storage.metadata.items() if value is not None}
    told = {name: _text(value) for name, value in known.items() if name not in FORMAL}
    if key_of(dataset):
        left_out = sorted(set(dataset.observation_space.spaces) - {OBSERVATION})
        told["observations"] = f"the entry '{OBSERVATION}'; left out: {', '.join(left_out) or 'nothing'}"
    space = dataset.action_space
    if np.isfinite([space.low, space.high]).all():
        told[STORED] = json.dumps({"stored": [space.low.tolist(), space.high.tolist()]})
    return {**told, **known.get("dqlab", {})}


def _text(value: Any) -> str:
    if isinstance(value, (set, list, tuple)):
        return ", ".join(sorted(map(str, value)))
    return value if isinstance(value, str) else json.dumps(value, default=str)
