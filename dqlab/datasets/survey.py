"""One pass over a dataset's rows, and everything that is counted on the way. It need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import outside
from dqlab.data.episodes import cuts_of
from dqlab.data.formats.base import Columns
from dqlab.data.formats.steps import BLOCK
from dqlab.datasets.hashing import repeats, row_hashes
from dqlab.datasets.tallies import Actions, Episodes, Sparse, Values
from dqlab.envs.tasks import Task

Tell = Callable[[int], None]
NUMBERS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminals", "timeouts")
RECORDED, BY_LIMIT, UNKNOWN = "recorded", "step limit", "unknown"


@dataclass(frozen=True)
class Survey:
    """What is in a dataset.

    Attributes:
        rows: of all columns.
        dtypes, shapes: of each column, by name.
        values: NaNs, infinities, range of each column of numbers.
        actions, sparse: what was counted of actions, and of rewards.
        terminals, timeouts, both: rows flagged so, and rows flagged as both.
        odd_flags: by column, rows whose flag is neither 0 nor 1.
        cuts: where the cuts of episodes are known from: `recorded`, `step limit`, or `unknown`.
        lengths, returns: of every episode that ends.
        unfinished: rows after the last end.
        duplicates: rows whose observation, action and reward an earlier row has.
        breaks: rows inside of episodes whose next observation is not the next row's.
        metadata: what is said of the set.
    """

    rows: int
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Values]
    actions: Actions
    sparse: Sparse
    terminals: int
    timeouts: int
    both: int
    odd_flags: Mapping[str, int]
    cuts: str
    lengths: NDArray[np.int64]
    returns: NDArray[np.float64]
    unfinished: int
    duplicates: int
    breaks: int
    metadata: Mapping[str, str]

    @property
    def outside(self) -> str:
        """What is said of actions outside of [-1, 1]; empty where there are none."""
        return outside(self.actions.extent(self.metadata))


def with_cuts(columns: Columns, task: Task | None) -> Columns:
    """The columns with D4RL's cuts at the task's step limit, where none are recorded."""
    if columns.timeouts is not None or task is None:
        return columns
    terminals = np.asarray(columns.terminals[0 : len(columns)]).astype(bool)
    return replace(columns, timeouts=cuts_of(terminals, None, task.episode_limit))


def survey(columns: Columns, task: Task | None = None, tell: Tell = lambda rows: None, block: int = BLOCK) -> Survey:
    """Count everything in one pass, `block` rows in memory at a time, and 8 bytes for each row.

    Args:
        columns: the dataset.
        task: whose step limit holds where the dataset does not record where episodes were cut.
        tell: called with the rows that are done.
        block: rows.
    """
    pass_ = _Pass(columns, with_cuts(columns, task))
    for start in range(0, len(columns), block):
        pass_.add(start, min(start + block, len(columns)))
        tell(min(start + block, len(columns)))
    return pass_.result()


class _Pass:
    """The tallies of one pass."""

    def __init__(self, columns: Columns, cut: Columns) -> None:
        self._given, self._columns = columns, cut
        names = [name for name in (*NUMBERS, *FLAGS) if getattr(columns, name) is not None]
        self._known = {name: getattr(columns, name) for name in names}
        self._values = {n: Values(int(np.prod(self._known[n].shape[1:]))) for n in NUMBERS if n in self._known}
        self._odd = dict.fromkeys((name for name in FLAGS if name in self._known), 0)
        self._actions, self._episodes, self._sparse = Actions(columns.actions.shape[1]), Episodes(), Sparse()
        self._counts = {"terminals": 0, "timeouts": 0, "both": 0, "breaks": 0}
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, start: int, stop: int) -> None:
        block = {name: column[start:stop] for name, column in self._known.items()}
        for name, values in self._values.items():
            values.add(start, block[name])
        for name in self._odd:
            self._odd[name] += int(((block[name] != 0) & (block[name] != 1)).sum())
        terminals = block["terminals"].astype(bool)
        cut = self._columns.timeouts
        timeouts = np.zeros_like(terminals) if cut is None else cut[start:stop].astype(bool)
        self._actions.add(block["actions"])
        self._sparse.add(block["rewards"], terminals)
        self._episodes.add(block["rewards"], terminals | timeouts)
        self._hashes.append(row_hashes(block["observations"], block["actions"], block["rewards"]))
        counted = {"terminals": terminals, "timeouts": timeouts, "both": terminals & timeouts}
        counted["breaks"] = self._breaks(block, stop, terminals | timeouts)
        for name, flags in counted.items():
            self._counts[name] += int(flags.sum())

    def _breaks(self, block: Mapping[str, NDArray[Any]], stop: int, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (n,) of which the next observation is another than the next row's, though the episode goes on."""
        if "next_observations" not in block:
            return np.zeros_like(ends)
        following = np.concatenate([block["observations"][1:], self._columns.observations[stop : stop + 1]])
        own = block["next_observations"][: len(following)]
        differ = ~((following == own) | (np.isnan(following) & np.isnan(own))).all(axis=1)
        return np.asarray(differ & ~ends[: len(following)])

    def result(self) -> Survey:
        cuts = (
            RECORDED
            if self._given.timeouts is not None
            else BY_LIMIT
            if self._columns.timeouts is not None
            else UNKNOWN
        )
        return Survey(
            rows=len(self._given),
            dtypes={name: str(column.dtype) for name, column in self._known.items()},
            shapes={name: tuple(column.shape) for name, column in self._known.items()},
            values=self._values,
            actions=self._actions,
            sparse=self._sparse,
            odd_flags=self._odd,
            cuts=cuts,
            lengths=self._episodes.lengths,
            returns=self._episodes.returns,
            unfinished=self._episodes.open_rows,
            duplicates=repeats(np.concatenate(self._hashes)),
            metadata=self._given.metadata,
            **self._counts,
        )
