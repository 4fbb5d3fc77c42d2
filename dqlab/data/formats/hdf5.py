"""HDF5 as D4RL lays it out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dqlab.data.download import BrokenError
from dqlab.data.formats.base import (
    COLUMN_NAMES,
    REQUIRED_COLUMNS,
    Column,
    Columns,
    Format,
    check_names,
    checked_columns,
    data_formats,
)
from dqlab.data.formats.reading import UnreadError, check_readable, reading_errors, write_errors
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, first_line
from dqlab.files import atomic_path
from dqlab.machine import memory_limit

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""What every HDF5 file begins with."""
DAMAGED = "is truncated or not an HDF5 file"
CHUNK_CACHE = 8 << 20
MARKED = "already open for"
"""HDF5's library says so of files in its latest format that nobody has closed after writing."""
D4RL_COLUMNS = (*REQUIRED_COLUMNS, "timeouts")


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)", cites=("fu2020d4rl",))
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        check_readable(path)
        with reading_errors(path, DAMAGED):
            file = _open_file(path)
        with file:
            with reading_errors(path, DAMAGED):
                check_names(str(path), file)
                names = [name for name in D4RL_COLUMNS if name in file]
                arrays: dict[str, Any] = {name: _stored_column(path, file, name) for name in names}
                columns = checked_columns(str(path), arrays, _read_metadata(file))
            yield columns

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras."""
        arrays = {**{name: getattr(columns, name) for name in COLUMN_NAMES}, **columns.extras}
        write_hdf5(path, {name: array for name, array in arrays.items() if array is not None}, columns.metadata)


UNPACKING = 1 << 29
"""Bytes that reading a column may take beside those that it holds: chunks may unpack to more than they say."""


class StoredColumn:
    """A dataset of an HDF5 file, whose rows are read when they are asked for; an error then is the file's."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self.shape, self.dtype, self.chunks = dataset.shape, dataset.dtype, dataset.chunks
        self._path, self._dataset = path, dataset

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        with reading_errors(self._path, DAMAGED), memory_limit(4 * self._dataset.nbytes + UNPACKING):
            values: NDArray[Any] = self._dataset[rows]
        return values


def _open_file(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE)
    except OSError as error:
        if MARKED in str(error):
            raise UnreadError(
                f"{path} is marked as being written: it is in use, or its writer was killed. Wait until it is "
                f"closed; where nothing writes it any more, `h5clear -s {path}` takes the mark off."
            ) from error
        raise


def _stored_column(path: Path, file: Any, name: str) -> StoredColumn:
    """A column that lies in this file, whose digest stands for it, and that can be unpacked here."""
    import h5py

    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: '{name}' is no array that lies in this file. Copy the data into it.")
    created = dataset.id.get_create_plist()
    for number in (created.get_filter(place)[0] for place in range(created.get_nfilters())):
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{path}: '{name}' is compressed by HDF5's filter {number}, which is not installed. Use gzip."
            )
    return StoredColumn(path, dataset)


def _read_metadata(file: Any) -> dict[str, str]:
    """Texts and numbers that lie directly in the group `metadata`."""
    import h5py

    group = file.get("metadata")
    nodes = {name: group.get(name) for name in group} if isinstance(group, h5py.Group) else {}
    values = {name: node[()] for name, node in nodes.items() if isinstance(node, h5py.Dataset) and node.shape == ()}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for name, value in values.items()
    }


PACKING = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def write_hdf5(path: Path, arrays: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, and `metadata/<name>` strings; compressed; whole or not at all.

    The file is made in memory: HDF5's library may crash long after it has met a full disk.

    Raises:
        DataError: the file cannot be written, or a string has a name or characters that HDF5 cannot keep.
    """
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array[:], **PACKING)
        for name, text in metadata.items():
            _write_note(file, path, name, text)
    with write_errors(path), atomic_path(path) as temporary:
        temporary.write_bytes(made.getbuffer())


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


PROVENANCE, CONVERTED = "provenance", "converted_from"


COLLECTED = "Collected by dqlab"


SHARE = 0.5
"""A file with a smaller share of the rows that D4RL's file has is an excerpt."""


def is_original_d4rl_file(path: Path, task: Task) -> bool:
    """Whether nothing speaks against an HDF5 file being D4RL's.

    What speaks against it: it has far fewer rows, or its metadata say that dqlab collected it or wrote it from another
    format.
    """
    try:
        with D4RL().open(path) as columns:
            notes, rows = dict(columns.metadata), len(columns)
    except DataError:  # damaged: whoever reads the rows says so
        return True
    ours = CONVERTED in notes or notes.get(PROVENANCE, "").startswith(COLLECTED)
    return not ours and rows >= SHARE * task.rows


def check_row_count(address: str, path: Path, task: Task) -> None:
    """See that a file from elsewhere has as many rows as D4RL's.

    Raises:
        BrokenError: it has not, or is no file of D4RL's layout.
    """
    try:
        with D4RL().open(path) as columns:
            rows = len(columns)
    except DataError as error:
        raise BrokenError(f"{address} sends something else than {task.name}: {error}") from error
    if task.rows and rows != task.rows:
        raise BrokenError(f"{address} sends {rows:,} rows for {task.name}, which has {task.rows:,}.")
