"""numpy's `.npz` with D4RL's names, read member by member from the first row to the last."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dqlab.data.formats.base import (
    COLUMN_NAMES,
    MOST_METADATA,
    Column,
    Columns,
    Format,
    check_claim,
    check_names,
    checked_columns,
    data_formats,
    raw_blocks,
)
from dqlab.data.formats.errors import DISK_ADVICE, DamagedError, reading_error, write_errors
from dqlab.errors import DataError
from dqlab.files import atomic_path

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
NOTES = "metadata"
PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@data_formats.register("npz", source="numpy.savez; D4RL's names")
class Npz(Format):
    """numpy's archive with D4RL's names; with `next_observations` every row is kept, without them as D4RL does."""

    suffixes = (".npz",)

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        if not path.is_file():
            raise DataError(f"There is no dataset at {path}. Check the path.")
        with _damage(path), zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_names(str(path), members)
        with _damage(path), zipfile.ZipFile(path) as archive:
            arrays: dict[str, Column] = {
                name: _member(path, archive, name, members[name]) for name in COLUMN_NAMES if name in members
            }
            notes = _notes(archive, members[NOTES]) if NOTES in members else {}
        yield checked_columns(str(path), arrays, notes)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, block by block."""
        with (
            write_errors(path, DISK_ADVICE),
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name in COLUMN_NAMES:
                if (column := getattr(columns, name)) is not None:
                    _write_member(archive, name, column)
            if columns.metadata:
                _write_member(archive, NOTES, np.array([json.dumps(dict(columns.metadata))]))


@dataclass
class ArchiveMember:
    """An array of an archive; rows behind those that were read last come without reading those before again.

    Attributes:
        path, info: the archive, and the array's place in it.
        shape, dtype: of the array.
    """

    path: Path
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: Any
    _stream: IO[bytes] | None = field(default=None, repr=False)
    _row: int = 0

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        with _damage(self.path):
            if self._stream is None or start < self._row:
                self._open()
            self._skip(start - self._row)
            values = self._read(stop - start)
        self._row = stop
        return values

    def _open(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            self._stream = archive.open(self.info)  # keeps the file open for itself
        _header(self._stream)
        self._row = 0

    @property
    def _row_bytes(self) -> int:
        return prod(self.shape[1:]) * int(self.dtype.itemsize)

    def _skip(self, rows: int) -> None:
        left = rows * self._row_bytes
        while left:
            left -= len(self._take(min(left, 1 << 20)))

    def _read(self, rows: int) -> NDArray[Any]:
        data = self._take(rows * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def _take(self, count: int) -> bytes:
        assert self._stream is not None
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError("it ends early")
        return data


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """zipfile, zlib and numpy fail in many ways on a damaged archive."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise reading_error(str(path), "is truncated or no .npz archive", error) from error


def _member(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> Column:
    """An array by its header, which is held against the bytes that are there."""
    if info.compress_type not in PACKED or info.flag_bits & 1:
        raise DataError(f"{path}: '{name}' is compressed or locked in a way that numpy does not use.")
    with archive.open(info) as stream:
        shape, by_columns, dtype = _header(stream)
        head = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: '{name}' holds Python objects, which may be programs and are not read. Save numbers.")
    claimed = prod(shape) * dtype.itemsize
    check_claim(f"{path}: '{name}'", max(claimed, info.file_size), path.stat().st_size)
    if claimed + head != info.file_size:
        raise DamagedError(f"{path}: '{name}' has shape {shape}, but {info.file_size - head:,} bytes.")
    if by_columns and len(shape) > 1:
        return np.asarray(ArchiveMember(path, info, shape[::-1], dtype)[: shape[-1]]).T
    return ArchiveMember(path, info, shape, dtype)


def _notes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, str]:
    """A JSON object in an array of one text, as `Npz.write` leaves it; anything else is somebody else's."""
    try:
        with archive.open(info) as stream:
            shape, _, dtype = _header(stream)
            if shape != (1,) or dtype.kind != "U" or dtype.itemsize > MOST_METADATA:
                return {}
            found = json.loads(str(np.frombuffer(stream.read(dtype.itemsize), dtype)[0]))
    except (ValueError, RuntimeError):  # no JSON, no array with rows, nested without end, packed in another way
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of numpy's format")
    shape, by_columns, dtype = HEADERS[version](stream, max_header_size=10_000)
    if any(size < 0 for size in shape) or not shape:
        raise ValueError(f"an array of shape {shape}")
    return shape, by_columns, dtype


def _write_member(archive: zipfile.ZipFile, name: str, column: Column) -> None:
    dtype = np.dtype(column.dtype)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(column.shape)}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_2_0(stream, header)
        for _, block in raw_blocks(column):
            stream.write(np.ascontiguousarray(block, dtype).tobytes())
