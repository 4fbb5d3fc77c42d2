"""What is counted of a dataset's rows, all of which are in memory for that, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dqlab.data.bounds import BOUNDS_ADVICE, ActionRange
from dqlab.data.formats.base import Columns, whole_columns
from dqlab.data.transitions import cuts_of, transition_rows
from dqlab.envs.tasks import Task

Array = NDArray[Any]
NUMBERS = ("observations", "actions", "rewards", "next_observations")


class Survey:
    """A dataset, cut into episodes: by its task's step limit, where that is known and no cuts are recorded.

    `terminals` and `timeouts` are rows (n,) at which an episode ended, and at which it was cut; `cuts` says where the
    latter are known from. `lengths` and `returns` are of every episode that ends.
    """

    def __init__(self, columns: Columns, task: Task | None = None) -> None:
        self.columns, self.task, self.terminals = columns, task, columns.terminals.astype(bool)
        recorded = None if columns.timeouts is None else columns.timeouts.astype(bool)
        self.timeouts = cuts_of(self.terminals, recorded, task.episode_limit if task else None)
        self.both = int((self.terminals & self.timeouts).sum())  # rows
        self.cuts = "recorded" if recorded is not None else "step limit" if task else "unknown"
        last = np.flatnonzero(self.terminals | self.timeouts)
        self.lengths, self.returns = np.diff(last, prepend=-1), np.zeros(0)
        if len(last):  # what is not finite stays in its episode
            rewards, starts = columns.rewards[: last[-1] + 1].astype(np.float64), np.append(0, last[:-1] + 1)
            self.returns = np.add.reduceat(rewards, starts)
        self.unfinished = len(columns) - int(self.lengths.sum())  # rows after the last end
        self.transitions = int(transition_rows(columns, self.timeouts).sum())
        self.counts = f"{len(columns):,} rows, {self.transitions:,} transitions, {len(self.lengths):,} episodes"
        self.values = {name: ValueCounts(each) for name, each in whole_columns(columns).items() if name in NUMBERS}


class ValueCounts:
    """NaNs and infinities in a column (n, ...), the rows that have some, and each dimension's range of other values."""

    def __init__(self, column: Array) -> None:
        table = column.reshape(len(column), -1).astype(np.result_type(column.dtype, np.float32), copy=False)
        finite = np.isfinite(table)
        self.nans = int(np.isnan(table).sum())
        self.infinities = int((~finite).sum()) - self.nans
        self.bad_rows = np.flatnonzero(~finite.all(axis=1))
        self.low = np.min(table, axis=0, where=finite, initial=np.inf)
        self.high = np.max(table, axis=0, where=finite, initial=-np.inf)


def repeated_rows(*columns: Array) -> int:
    """How many rows of several columns (n, ...), as float32, repeat an earlier one, by hashes of 64 bits."""
    with np.errstate(over="ignore"):
        tables = [column.reshape(len(column), -1).astype(np.float32) + np.float32(0) for column in columns]  # -0 is 0
    hashes = pd.util.hash_pandas_object(pd.DataFrame(np.concatenate(tables, axis=1)), index=False)
    return int(hashes.duplicated().sum())


def find_faults(found: Survey) -> tuple[list[str], list[str]]:
    """What says that a dataset is damaged, or another task's; and what is strange in it: a sentence each."""
    return list(_damage(found)), list(_oddities(found))


def _damage(found: Survey) -> Iterator[str]:
    known, task = whole_columns(found.columns), found.task
    for name, wanted in (("observations", task.state_dim), ("actions", task.action_dim)) if task else ():
        if task and (width := known[name].shape[1]) != wanted:
            yield f"'{name}' is {width} wide, {task.name}'s is {wanted}: another task's"
    for name, values in found.values.items():
        if rows := len(values.bad_rows):
            count = f"{values.nans:,} NaN(s) and {values.infinities:,} infinite value(s)"
            yield f"'{name}' has {count} in {rows:,} row(s), first in row {values.bad_rows[0]:,}"
    for name in (name for name in known if name not in NUMBERS):
        if odd := int(((known[name] != 0) & (known[name] != 1)).sum()):
            yield f"'{name}' is neither 0 nor 1 in {odd:,} row(s)"


def _oddities(found: Survey) -> Iterator[str]:
    columns, task, lengths, terminals = found.columns, found.task, found.lengths, int(found.terminals.sum())
    if found.both:
        yield f"{found.both:,} row(s) are both terminal and timeout: D4RL's view drops them"
    if note := ActionRange(columns).note:
        yield f"{note}; {BOUNDS_ADVICE}"
    for name in ("observations", "actions"):
        values = found.values[name]
        still = np.flatnonzero(values.low == values.high)
        if len(still) and len(columns) > 1:
            yield f"'{name}' never changes in dimension(s) {', '.join(map(str, still))}"
    rewards, unrewarded = np.unique(columns.rewards).tolist(), int((found.terminals & (columns.rewards == 0)).sum())
    if len(rewards) == 1:
        yield f"all rewards are {rewards[0]:g}"
    if rewards == [0.0, 1.0] and unrewarded:
        yield f"rewards are 0 or 1, and {unrewarded:,} of {terminals:,} terminal row(s) have reward 0"
    if repeated := repeated_rows(columns.observations, columns.actions, columns.rewards):
        yield f"{repeated:,} row(s) repeat an earlier row's observation, action and reward"
    if not len(lengths):
        yield f"no episode ends within the {len(columns):,} rows"
    elif found.unfinished:
        yield f"the last {found.unfinished:,} row(s) belong to an episode that does not end"
    if task and len(lengths):
        limit, most = f"{task.name}'s limit of {task.episode_limit:,} steps", task.episode_limit
        if long := int((lengths > most).sum()):
            yield f"{long:,} episode(s) are longer than {limit}, up to {lengths.max():,}"
        if most > 1 and (lengths == most).all() and not found.timeouts.any():
            yield f"every episode is terminal at {limit}, and none is cut: are these timeouts? Values end at a terminal"
    if columns.timeouts is None and not task:
        yield "no timeouts are recorded, and the task is not known (--task): episodes end at terminals only"
    if columns.next_observations is not None:
        inside = ~(found.terminals | found.timeouts)[:-1]
        one, other = columns.observations[1:], columns.next_observations[:-1]
        same = ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
        if breaks := int((~same & inside).sum()):
            yield f"{breaks:,} row(s) inside of episodes have a next observation that is not the next row's"
