"""What a dataset's transitions are made of, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule
from dqlab.data.formats.base import Columns
from dqlab.data.stores import InMemory, Rows, Store, moments
from dqlab.data.view import Fields, Outline, fill, outline_of


@dataclass(frozen=True)
class View:
    """Which view of the rows is wanted.

    Attributes:
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        standardised: whether states become (s - mean) / (std + floor) over the dataset's (Fujimoto & Gu, section 5).
        floor: added to the deviation.
        actions: which ones there may be, and what becomes of them.
    """

    episode_limit: int
    standardised: bool = False
    floor: float = 1e-3
    actions: ActionRule = AS_IS


@dataclass(frozen=True)
class Contents:
    """Arrays of n transitions, rewards as recorded.

    Attributes:
        state (n, S), action (n, A), next_state (n, S), terminal (n,), rewards (n,): float32; may be read-only.
        returns: of the episodes.
        rows: of the dataset.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
        folder: where they are mapped from; None where they are in memory.
    """

    state: Rows
    action: Rows
    next_state: Rows
    terminal: Rows
    rewards: Rows
    returns: NDArray[np.float64]
    rows: int
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    folder: Path | None = None


def shapes_of(columns: Columns, transitions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the large fields, by name."""
    state, action = columns.observations.shape[1], columns.actions.shape[1]
    widths: dict[str, tuple[int, ...]] = {"state": (state,), "action": (action,), "next_state": (state,)}
    return {name: (transitions, *width) for name, width in {**widths, "terminal": ()}.items()}


def in_memory(columns: Columns, view: View) -> Contents:
    """The transitions as arrays in memory.

    Raises:
        DataError: the dataset is damaged, or has no transition.
    """
    outline = outline_of(columns, view.episode_limit)
    stores = {name: InMemory(shape) for name, shape in shapes_of(columns, outline.transitions).items()}
    mean, std = write(columns, outline, view, Fields(**stores))
    arrays = {name: store.array for name, store in stores.items()}
    small = {"rewards": outline.rewards, "returns": outline.returns, "rows": len(columns)}
    return Contents(**arrays, **small, state_mean=mean, state_std=std)  # type: ignore[arg-type]


def write(columns: Columns, outline: Outline, view: View, into: Fields) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Write the large fields; returns what states were standardised by, nothing where they are as recorded.

    Raises:
        DataError: the dataset is damaged, or actions are not as the view wants them.
        OSError: there is no room.
    """
    fill(columns, outline, into, view.actions)
    return _standardise(into.state, into.next_state, view.floor) if view.standardised else ((), ())


def _standardise(state: Store, following: Store, floor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + floor).astype(np.float32)
    for states in (state, following):
        states.rewrite(lambda block: (block - shift) / scale)
    return tuple(shift.tolist()), tuple(scale.tolist())
