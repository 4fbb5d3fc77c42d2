"""HDF5: D4RL's format, read by a process of its own, since the library crashes on some damaged files; and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import (
    COLUMN_NAMES,
    MOST_METADATA,
    REQUIRED_COLUMNS,
    Column,
    Columns,
    Format,
    boolean_column,
    check_claim,
    check_names,
    check_widths,
    checked_columns,
    data_formats,
    float_column,
    raw_blocks,
)
from dqlab.data.formats.errors import DISK_ADVICE, UnreadError, check_unlocked, reading_error
from dqlab.data.formats.guard import IsolatedReader, isolated_reader, limit_memory
from dqlab.errors import DataError, first_line
from dqlab.files import atomic_path

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""What every HDF5 file begins with."""
CHUNK_CACHE = 8 << 20
COPIES = 4
"""As many copies of what is read are in memory for a moment."""
MARKED = "already open for"
"""HDF5's library says so of files in its latest format that nobody has closed after writing."""
PATIENCE = 300.0
"""Seconds in which a block must have been read."""


@dataclass(frozen=True)
class StoredArray:
    """A dataset of an open file.

    Attributes:
        child: what reads it.
        name: in the file.
        shape: rows first.
        dtype: as stored.
        chunks: shape of what is read at once; None if that is any rows.
    """

    child: IsolatedReader
    name: str
    shape: tuple[int, ...]
    dtype: Any
    chunks: tuple[int, ...] | None

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        values: NDArray[Any] = self.child.ask("rows", self.name, start, stop)
        return values


@contextmanager
def open_hdf5(
    path: Path, check: Callable[[Collection[str]], None], names: Collection[str]
) -> Iterator[dict[str, Column]]:
    """The named datasets that a file has.

    Args:
        path: the file.
        check: told of everything that the file has; raises DataError where it does not like that.
        names: wanted ones.

    Raises:
        DataError: the file is missing, or in use; a wanted name is a link, a group, or lies in other files.
        DamagedError: it is no HDF5 file, or damaged.
    """
    import h5py  # noqa: F401  once, not in every process that reads

    if not path.is_file():
        raise DataError(f"There is no dataset at {path}. Check the path.")
    if path.suffix != ".part":  # what is being fetched is locked by whoever fetches and now looks at it
        check_unlocked(path)
    with isolated_reader(str(path), partial(_opened, path), PATIENCE) as child:
        there = child.ask("names")
        check(there)
        yield {name: _stored(child, name) for name in names if name in there}


def _stored(child: IsolatedReader, name: str) -> StoredArray:
    facts = child.ask("describe", name)
    chunks = tuple(facts["chunks"]) if facts["chunks"] else None
    return StoredArray(child, name, tuple(facts["shape"]), np.dtype(facts["dtype"]), chunks)


class HDF5Metadata(Mapping[str, str]):
    """Texts and numbers that lie directly in a file's group `metadata`; read when the first is asked for.

    Raises:
        DamagedError: they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _found(self) -> dict[str, str]:
        with isolated_reader(str(self._path), partial(_opened, self._path), PATIENCE) as child:
            found: dict[str, str] = child.ask("notes")
        return found

    def __getitem__(self, name: str) -> str:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@contextmanager
def _opened(path: Path) -> Iterator[Callable[..., Any]]:
    """In the process that reads: a function from questions to answers."""
    import h5py

    limit_memory(0)
    with _damage(path), h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE) as file:
        answers: dict[str, Callable[..., Any]] = {
            "names": lambda: sorted(file),
            "describe": partial(_describe, path, file),
            "rows": partial(_rows, file),
            "notes": partial(_notes, file),
        }

        def answer(what: str, *about: Any) -> Any:
            with _damage(path):
                return answers[what](*about)

        yield answer


def _rows(file: Any, name: str, start: int, stop: int) -> NDArray[Any]:
    dataset = file[name]
    row = dataset.nbytes // max(1, len(dataset))
    limit_memory(COPIES * ((stop - start) * row + _chunk_bytes(dataset)))
    return np.asarray(dataset[start:stop])


def _chunk_bytes(dataset: Any) -> int:
    """Bytes that HDF5 unpacks at once, by the shape of a chunk; 0 where nothing is packed."""
    return prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """HDF5's library fails in many ways on a damaged file."""
    try:
        yield
    except (DataError, EOFError):
        raise
    except Exception as error:
        if MARKED in str(error):
            raise UnreadError(
                f"{path} is marked as being written: it is in use, or its writer was killed. Wait until it is closed; "
                f"where nothing writes it any more, `h5clear -s {path}` takes the mark off."
            ) from error
        raise reading_error(str(path), "is truncated or not an HDF5 file", error) from error


def _describe(path: Path, file: Any, name: str) -> dict[str, Any]:
    """A dataset that lies in this file: what a link or an external file points to is not read."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{path}: '{name}' is a link to another place, which is not followed. Copy the data into it.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{path}: '{name}' is no array.")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: '{name}' lies in other files, which are not read. Copy the data into this one.")
    if dataset.dtype.kind not in "biuf":
        raise DataError(f"{path}: '{name}' has dtype {dataset.dtype}, expected numbers.")
    _check_filters(path, name, dataset)
    check_claim(f"{path}: '{name}'", max(dataset.nbytes, _chunk_bytes(dataset)), path.stat().st_size)
    return {"shape": dataset.shape, "dtype": dataset.dtype.str, "chunks": dataset.chunks}


def _check_filters(path: Path, name: str, dataset: Any) -> None:
    import h5py

    created = dataset.id.get_create_plist()
    used = [created.get_filter(place)[0] for place in range(created.get_nfilters())]
    missing = [number for number in used if not h5py.h5z.filter_avail(number)]
    if missing:
        raise DataError(
            f"{path}: '{name}' is compressed by HDF5's filter {missing[0]}, which is not installed. Use gzip."
        )


def _notes(file: Any) -> dict[str, str]:
    import h5py

    found: dict[str, str] = {}
    if not isinstance(file.get("metadata", getlink=True), h5py.HardLink) or not isinstance(
        file["metadata"], h5py.Group
    ):
        return found
    group, left = file["metadata"], MOST_METADATA
    for name in group:
        node = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(node, h5py.Dataset) and _small(node, left):
            value = node[()]
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            if len(text) <= left:
                found[name] = text
                left -= len(text)
    return found


def _small(node: Any, most: int) -> bool:
    """Whether a dataset is one value that lies in this file and is no longer than that."""
    return node.shape == () and not node.external and not node.is_virtual and node.dtype.itemsize <= most


PACKING = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


class ErrorKeepingFile(io.RawIOBase):
    """A file that remembers the first error and takes everything after it as written.

    HDF5's library crashes if the disk gets full; like this it can close the file, which is then thrown away.

    Args:
        path: of a new file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it, or nothing from the first error on."""
        left = memoryview(data)
        try:
            while left and self.error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """As files do; an error is remembered."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


def write_hdf5(path: Path, arrays: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, block by block, and `metadata/<name>` strings; compressed; whole or not at all.

    Raises:
        DataError: the file cannot be written, or a string has a name or characters that HDF5 cannot keep.
    """
    import h5py

    try:
        with atomic_path(path) as temporary, ErrorKeepingFile(temporary) as target:
            with h5py.File(target, "w") as file:
                for name, array in arrays.items():
                    _write_column(file, name, array, target)
                for name, text in metadata.items():
                    _write_note(file, path, name, text)
            target.check()
    except (OSError, RuntimeError) as error:
        raise DataError(f"Cannot write {path}: {first_line(error)}. {DISK_ADVICE}") from error


def _write_column(file: Any, name: str, column: Column, target: ErrorKeepingFile) -> None:
    dataset = file.create_dataset(name, column.shape, column.dtype, **PACKING)
    for start, block in raw_blocks(column):
        dataset[start : start + len(block)] = block
        target.check()


def _write_note(file: Any, path: Path, name: str, text: str) -> None:
    try:
        if "\0" in name or not all(name.split("/")):
            raise ValueError("a name is empty or has a NUL")
        file.create_dataset(f"metadata/{name}", data=text)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"Cannot write {path}: HDF5 cannot keep the metadata {name!r} ({first_line(error)}). "
            "Rename them, or leave them out."
        ) from error


D4RL_COLUMNS = (*REQUIRED_COLUMNS, "timeouts")


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)", cites=("fu2020d4rl",))
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        with open_hdf5(path, partial(check_names, str(path)), D4RL_COLUMNS) as arrays:
            yield checked_columns(str(path), arrays, HDF5Metadata(path))

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras."""
        arrays = {**{name: getattr(columns, name) for name in COLUMN_NAMES}, **columns.extras}
        write_hdf5(path, {name: array for name, array in arrays.items() if array is not None}, columns.metadata)


def read_d4rl(path: Path, state_dim: int | None = None, action_dim: int | None = None) -> Columns:
    """Read and check a D4RL HDF5 file: float32 arrays, and flags as booleans.

    Args:
        path: the file.
        state_dim, action_dim: S and A of the task, checked where given.

    Raises:
        DataError: the file is missing, truncated or not HDF5; a key is missing; shapes disagree with each other or
            with the task; a dtype is not numeric; a value is NaN or infinite (its row is named).
    """
    with D4RL().open(path) as columns:
        check_widths(columns, state_dim, action_dim)
        where = columns.where
        timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
        tables: dict[str, Any] = {
            name: float_column(where, name, getattr(columns, name)) for name in ("observations", "actions", "rewards")
        }
        terminals = boolean_column(where, "terminals", columns.terminals)
        return Columns(
            **tables, terminals=terminals, timeouts=timeouts, metadata=columns.metadata, extras={}, where=where
        )


def write_d4rl(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a D4RL file: `arrays` by name, and `metadata/<name>` strings; compressed; whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    write_hdf5(path, {name: np.asarray(array) for name, array in arrays.items()}, metadata)
