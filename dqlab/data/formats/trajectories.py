"""Decision Transformer's pickles: a list of trajectories, each a dict of numpy arrays by D4RL's names."""

from __future__ import annotations

import pickle
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import (
    COLUMN_NAMES,
    MATRIX_COLUMNS,
    Columns,
    Format,
    check_claim,
    check_names,
    checked_columns,
    data_formats,
)
from dqlab.data.formats.errors import DISK_ADVICE, write_errors
from dqlab.data.formats.pickles import PickledArray, unpickle_values
from dqlab.errors import DataError
from dqlab.files import atomic_path

Trajectory = dict[str, NDArray[Any]]
NUMBERS = (int, float, np.bool_, np.integer, np.floating)


@data_formats.register(
    "trajectories", source="Chen et al. 2021 (Decision Transformer), its data files", cites=("chen2021decision",)
)
class Trajectories(Format):
    """A pickled list of dicts of arrays, one a trajectory; read without running anything that the pickle names.

    A trajectory that does not end in a terminal state was cut. With `next_observations` every row is kept.
    """

    suffixes = (".pkl", ".pickle")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        """The columns of all trajectories, joined; the whole file is in memory."""
        if not path.is_file():
            raise DataError(f"There is no dataset at {path}. Check the path.")
        found = unpickle_values(path)
        if not isinstance(found, (list, tuple)) or not found:
            raise DataError(f"{path} holds no list of trajectories.")
        trajectories = list(map(_with_end, _trajectories(path, found)))
        names = [name for name in COLUMN_NAMES if any(name in each for each in trajectories)]
        joined = {name: _joined(str(path), name, trajectories) for name in names}
        yield checked_columns(str(path), joined)

    def write(self, path: Path, columns: Columns) -> None:
        """Write the rows as trajectories; all of them pass through memory."""
        if columns.timeouts is None and columns.next_observations is None:
            raise DataError(f"{columns.where} does not say where episodes were cut, as trajectories must.")
        arrays = {name: column[:] for name in COLUMN_NAMES if (column := getattr(columns, name)) is not None}
        ends = np.flatnonzero(arrays["terminals"].astype(bool) | arrays.get("timeouts", False)) + 1
        bounds = sorted({0, *ends.tolist(), len(columns)})
        pieces = [{name: array[a:b] for name, array in arrays.items()} for a, b in pairwise(bounds)]
        with write_errors(path, DISK_ADVICE), atomic_path(path) as temporary, temporary.open("wb") as file:
            pickle.dump(pieces, file, protocol=4)


@dataclass(frozen=True)
class JoinedArrays:
    """Arrays one behind the other, seen as one."""

    parts: list[NDArray[Any]]
    starts: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.starts[-1], *self.parts[0].shape[1:])

    @property
    def dtype(self) -> Any:
        return np.result_type(*{part.dtype for part in self.parts})

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, max(start, stop - 1)) - 1
        parts = self.parts[first : last + 1] or self.parts[:1]
        offset = start - self.starts[first]
        return np.concatenate(parts)[offset : offset + max(0, stop - start)]


def _joined(where: str, name: str, trajectories: list[Trajectory]) -> JoinedArrays:
    lacking = next((place for place, each in enumerate(trajectories) if name not in each), None)
    if lacking is not None:
        raise DataError(f"{where}: trajectory {lacking} has no '{name}', others have.")
    parts = [each[name] for each in trajectories]
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        raise DataError(f"{where}: '{name}' has rows of different shapes: {', '.join(map(str, sorted(widths)))}.")
    return JoinedArrays(parts, [0, *accumulate(len(part) for part in parts)])


def _trajectories(path: Path, found: Sequence[Any]) -> Iterator[Trajectory]:
    """One after the other, none before it is known that they may be so large."""
    claimed, size = 0, path.stat().st_size
    converted: dict[int, NDArray[Any]] = {}
    for place, each in enumerate(found):
        arrays = _trajectory(f"{path}: trajectory {place}", each, converted)
        claimed += sum(array.nbytes for array in arrays.values())
        check_claim(str(path), claimed, size)
        yield arrays


def _trajectory(where: str, found: Any, converted: dict[int, NDArray[Any]]) -> Trajectory:
    """The arrays of one trajectory, all of one length; what is named again is not converted again."""
    if not isinstance(found, dict):
        raise DataError(f"{where} is no dict of arrays.")
    check_names(where, found)
    arrays = {
        name: _array(f"{where}: '{name}'", name, found[name], converted) for name in COLUMN_NAMES if name in found
    }
    rows = len(arrays["observations"])
    for name, array in arrays.items():
        if len(array) != rows:
            raise DataError(f"{where}: '{name}' has {len(array)} rows, 'observations' has {rows}.")
    return arrays


def _with_end(arrays: Trajectory) -> Trajectory:
    """A trajectory that is marked as cut at its last row, where that is not terminal."""
    terminals = arrays["terminals"].astype(bool)
    timeouts = np.array(arrays["timeouts"] if "timeouts" in arrays else np.zeros_like(terminals), dtype=bool)
    timeouts[-1:] |= ~terminals[-1:]
    return {**arrays, "timeouts": timeouts}


def _array(what: str, name: str, found: Any, converted: dict[int, NDArray[Any]]) -> NDArray[Any]:
    """A column's array."""
    if id(found) not in converted:
        converted[id(found)] = _numbers(what, found)
    array = converted[id(found)]
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} has dtype {array.dtype}, expected numbers.")
    flat = array.reshape(-1) if name not in MATRIX_COLUMNS and array.shape[1:] == (1,) else array
    if flat.ndim != (2 if name in MATRIX_COLUMNS else 1):
        raise DataError(f"{what} has shape {array.shape}.")
    return flat


def _numbers(what: str, found: Any) -> NDArray[Any]:
    """An array; or a flat list of numbers: in nested ones, one list may be named a billion times."""
    if isinstance(found, list) and all(isinstance(value, NUMBERS) for value in found):
        return np.asarray(found)
    if isinstance(found, PickledArray):
        return found.value
    raise DataError(f"{what} is no array.")
