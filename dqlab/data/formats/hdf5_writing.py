"""HDF5 files written whole or not at all, also where the disk is full."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.data.blocks import raw_blocks
from dqlab.data.formats.base import Column
from dqlab.errors import DataError, first_line
from dqlab.files import atomic_path

PACKING = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


class Patient(io.RawIOBase):
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
        """What is in the file."""
        return self._file.readinto(buffer)

    def seek(self, place: int, whence: int = 0) -> int:
        """As files do."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """As files do."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """As files do; an error is remembered."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> None:
        """As files do."""
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
        with atomic_path(path) as temporary, Patient(temporary) as target:
            with h5py.File(target, "w") as file:
                for name, array in arrays.items():
                    _write_column(file, name, array, target)
                for name, text in metadata.items():
                    _write_note(file, path, name, text)
            target.check()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Cannot write {path}: {first_line(error)}. Free some space or choose another place."
        ) from error


def _write_column(file: Any, name: str, column: Column, target: Patient) -> None:
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
