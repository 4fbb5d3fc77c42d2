"""Arrays by D4RL's names: in HDF5, in numpy's `.npz`, and in Decision Transformer's pickles, a dict a trajectory."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from dqlab.data.formats import base
from dqlab.data.formats.base import COLUMN_NAMES, Columns, Format, data_formats
from dqlab.errors import PACKAGE, DataError, first_line, printable_name
from dqlab.files import atomic_path
from dqlab.machine import memory_limit

Arrays = dict[str, NDArray[Any]]
UNPACKING = 1 << 29  # bytes that reading HDF5 may take beside the rows: chunks of a damaged file may unpack to more
NOTES = "metadata"  # the name under which an `.npz` has them


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)", cites=("fu2020d4rl",))
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    def read(self, path: Path) -> Columns:
        with opened_hdf5(path) as (stored, metadata):
            return base.checked_columns(str(path), _columns_of(path, stored), metadata)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras."""
        import h5py

        made = io.BytesIO()  # in memory: HDF5's library may crash long after it has met a full disk
        with h5py.File(made, "w") as file:
            for name, array in {**base.whole_columns(columns), **columns.extras}.items():
                file.create_dataset(name, data=array, compression="gzip", compression_opts=9, shuffle=True)
            for name, text in columns.metadata.items():
                try:
                    if "\0" in name or not all(name.split("/")):
                        raise ValueError("a name is empty or has a NUL")
                    file.create_dataset(f"metadata/{name}", data=text)
                except (ValueError, TypeError) as error:
                    why = f"HDF5 cannot keep the metadata {name!r} ({first_line(error)})"
                    raise DataError(f"Cannot write {path}: {why}. Rename them, or leave them out.") from error
        with base.write_errors(path), atomic_path(path) as temporary:
            temporary.write_bytes(made.getbuffer())


@contextmanager
def opened_hdf5(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """A file's columns, not read yet, and its metadata: texts and numbers that lie directly in that group."""
    import h5py  # noqa: F401  # here once, not in the child, too

    base.check_readable(path)
    known = path.stat()
    if PACKAGE not in path.parents:
        _read_in_child(path, known.st_size, known.st_mtime_ns)
    with _opened(path) as found:
        yield found


@cache
def _read_in_child(path: Path, size: int, changed: int) -> None:
    def read() -> None:
        with _opened(path) as (stored, _):
            _columns_of(path, stored)

    base.read_in_child(path, size, read)


def _columns_of(path: Path, stored: Mapping[str, Any]) -> Arrays:
    size = sum(dataset.nbytes for dataset in stored.values())
    base.check_room(path, size)
    with memory_limit(4 * size + UNPACKING):
        return {name: dataset[:] for name, dataset in stored.items()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    import h5py

    with base.reading_errors(path, "is truncated or not an HDF5 file"), h5py.File(path, "r", locking=False) as file:
        base.check_names(str(path), file)
        stored = {name: file.get(name) for name in (*base.REQUIRED_COLUMNS, "timeouts", "masks") if name in file}
        for name, dataset in stored.items():
            here = isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(dataset, h5py.Dataset)
            if not here or not dataset.shape or dataset.external or dataset.is_virtual or dataset.dtype.hasobject:
                raise DataError(f"{path}: '{name}' is no array of numbers that lies in this file. Copy it there.")
        group = file.get("metadata")
        nodes = {name: group.get(name) for name in group} if isinstance(group, h5py.Group) else {}
        told = {name: node[()] for name, node in nodes.items() if isinstance(node, h5py.Dataset) and node.shape == ()}
        yield stored, {name: v.decode(errors="replace") if isinstance(v, bytes) else str(v) for name, v in told.items()}


@data_formats.register("npz", source="numpy.savez; D4RL's names")
class Npz(Format):
    """numpy's archive with D4RL's names; with `next_observations` every row is kept, without them as D4RL does."""

    suffixes = (".npz",)

    def read(self, path: Path) -> Columns:
        arrays, notes = read_archive(path, COLUMN_NAMES, partial(base.check_names, str(path)))
        return base.checked_columns(str(path), arrays, notes)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed."""
        write_archive(path, base.whole_columns(columns), columns.metadata)


def write_archive(path: Path, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Write arrays by name, compressed, and what is said of them, whole or not at all; a DataError where it cannot."""
    said = {NOTES: np.array([json.dumps(dict(notes))])} if notes else {}
    with base.write_errors(path), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays, **said)  # type: ignore[arg-type]


def read_archive(
    path: Path, names: Sequence[str], check: Callable[[Collection[str]], object] = len
) -> tuple[Arrays, dict[str, str]]:
    """Those of the named arrays that an archive has, and what is said of them; a DataError where it cannot be read."""
    base.check_readable(path)
    with base.reading_errors(path, "is truncated or no .npz archive of numbers"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check(members)  # the names of all that there are, before anything is read
        wanted = {name: members[name] for name in names if name in members}
        base.check_room(path, sum(info.file_size for info in wanted.values()))
        arrays = {name: _member(path, archive, info) for name, info in wanted.items()}
        said: Any = {}  # a JSON object in an array of one text; anything else is somebody else's
        with suppress(KeyError, ValueError, TypeError, RecursionError):
            said = json.loads(_member(path, archive, members[NOTES]).item())
        return arrays, {str(name): str(text) for name, text in said.items()} if isinstance(said, dict) else {}


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """An array; all of its bytes are read, so that its checksum is compared."""
    with archive.open(info) as stream:
        array: NDArray[Any] = read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise base.DamagedError(f"{path}: '{info.filename}' has more bytes than its shape {array.shape} says.")
    return array


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
                reader = ArrayUnpickler(file, encoding="latin1")
                reader.where = path
                found = reader.load()
            if not isinstance(found, (list, tuple)) or not found:
                raise DataError(f"{path} holds no list of trajectories.")
            trajectories = [_trajectory(f"{path}: trajectory {place}", each) for place, each in enumerate(found)]
            joined: Arrays = {}
            for name in (name for name in COLUMN_NAMES if any(name in each for each in trajectories)):
                if lacking := [place for place, each in enumerate(trajectories) if name not in each]:
                    raise DataError(f"{path}: trajectory {lacking[0]} has no '{name}', others have.")
                parts = [each[name] for each in trajectories]
                if len(widths := {part.shape[1:] for part in parts}) > 1:
                    shapes = ", ".join(map(str, sorted(widths)))
                    raise DataError(f"{path}: '{name}' has rows of different shapes: {shapes}.")
                joined[name] = np.concatenate(parts)
            return base.checked_columns(str(path), joined)


class _Type:
    """For numpy's dtype, of which a pickle says the byte order, too; numpy's own takes flags that make it crash."""

    def __init__(self, name: str, *_: object) -> None:
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """For numpy's array, whose values are its state."""

    values: NDArray[Any] = np.empty(0, object)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.values = _values_of(
            data.encode("latin1") if isinstance(data, str) else data, kind, shape, "CF"[by_columns]
        )


def _values_of(data: Any, kind: _Type, shape: Any = -1, order: Any = "C") -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    return values


STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": dict,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # bytes, in protocols that know none
    "numpy.ndarray": object,  # which takes no argument: numpy's own would take any bytes for objects
    "numpy.dtype": _Type,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS |= {
        f"{_core}.multiarray._reconstruct": lambda *_: _Array(),
        f"{_core}.multiarray.scalar": lambda kind, data: _values_of(data, kind)[0],
        f"{_core}.numeric._frombuffer": _values_of,
    }


class ArrayUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts, numbers and numpy arrays. A pickle is a program: what it names beyond is refused."""

    where: Path

    def find_class(self, module: str, name: str) -> Any:
        if (wanted := f"{module}.{name}") not in STAND_INS:
            said = f"{self.where} wants {printable_name(wanted)}, which a pickle of arrays has no use for"
            raise DataError(f"{said}. It is not read; nothing in it was run.")
        return STAND_INS[wanted]


def _trajectory(where: str, found: Any) -> Arrays:
    """The arrays of one trajectory, all of one length; marked as cut at its last row, where that is not terminal."""
    if not isinstance(found, dict):
        raise DataError(f"{where} is no dict of arrays.")
    base.check_names(where, found)
    arrays: Arrays = {}
    for name in (name for name in COLUMN_NAMES if name in found):  # observations are the first
        given = found[name].values if isinstance(found[name], _Array) else found[name]
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
