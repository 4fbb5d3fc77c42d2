"""Decision Transformer's pickles: a list of trajectories, each a dict of numpy arrays by D4RL's names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats import base
from dqlab.data.formats.base import COLUMN_NAMES, Columns, Format, data_formats
from dqlab.errors import DataError, printable_name
from dqlab.machine import memory_limit

Trajectory = dict[str, NDArray[Any]]


@data_formats.register(
    "trajectories", source="Chen et al. 2021 (Decision Transformer), its data files", cites=("chen2021decision",)
)
class Trajectories(Format):
    """A pickled list of dicts of arrays, one a trajectory; read without running anything that the pickle names.

    A trajectory that does not end in a terminal state was cut. With `next_observations` every row is kept.
    """

    suffixes = (".pkl", ".pickle")

    def read(self, path: Path) -> Columns:
        base.check_readable(path)
        size = path.stat().st_size
        base.check_room(path, size)
        with base.reading_errors(path, "is truncated or no pickle of arrays"):
            with path.open("rb") as file, memory_limit(4 * size + (1 << 30)):  # a few bytes may ask for all memory
                found = ArrayUnpickler(path, file).load()
            if not isinstance(found, (list, tuple)) or not found:
                raise DataError(f"{path} holds no list of trajectories.")
            trajectories = [_trajectory(f"{path}: trajectory {place}", each) for place, each in enumerate(found)]
            names = [name for name in COLUMN_NAMES if any(name in each for each in trajectories)]
            return base.checked_columns(str(path), {name: _joined(str(path), name, trajectories) for name in names})


STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": dict,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # bytes, in protocols that know none
    "numpy.ndarray": object,  # which takes no argument: numpy's own would take any bytes for objects
    "numpy.dtype": np.dtype,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS |= {
        f"{_core}.multiarray._reconstruct": lambda *_: np.empty(0, "u1"),  # before its values are set
        f"{_core}.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype)[0],
        f"{_core}.numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(data, dtype).reshape(
            shape, order=order
        ),
    }


class ArrayUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts, numbers and numpy arrays. A pickle is a program: what it names beyond is refused."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in STAND_INS:
            refused = f"{self._path} wants {printable_name(wanted)}, which a pickle of arrays has no use for"
            raise DataError(f"{refused}. It is not read; nothing in it was run.")
        return STAND_INS[wanted]


def _trajectory(where: str, found: Any) -> Trajectory:
    """The arrays of one trajectory, all of one length; marked as cut at its last row, where that is not terminal."""
    if not isinstance(found, dict):
        raise DataError(f"{where} is no dict of arrays.")
    base.check_names(where, found)
    arrays: Trajectory = {}
    for name in (name for name in COLUMN_NAMES if name in found):  # observations are the first
        given = found[name]
        array = np.asarray(given) if isinstance(given, (list, np.ndarray)) else np.empty(0, object)
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            raise DataError(f"{where}: '{name}' is no array of numbers.")
        arrays[name] = array
        if len(array) != (rows := len(arrays["observations"])):
            raise DataError(f"{where}: '{name}' has {len(array)} rows, 'observations' has {rows}.")
    terminals = arrays["terminals"].astype(bool).reshape(rows)
    timeouts = np.array(arrays.get("timeouts", np.zeros(rows)), dtype=bool).reshape(rows)
    timeouts[-1:] |= ~terminals[-1:]
    return {**arrays, "timeouts": timeouts}


def _joined(where: str, name: str, trajectories: list[Trajectory]) -> NDArray[Any]:
    lacking = next((place for place, each in enumerate(trajectories) if name not in each), None)
    if lacking is not None:
        raise DataError(f"{where}: trajectory {lacking} has no '{name}', others have.")
    parts = [each[name] for each in trajectories]
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        raise DataError(f"{where}: '{name}' has rows of different shapes: {', '.join(map(str, sorted(widths)))}.")
    return np.concatenate(parts)
