"""numpy's `.npz` with D4RL's names."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from dqlab.data.formats.base import (
    COLUMN_NAMES,
    Columns,
    Format,
    check_names,
    checked_columns,
    data_formats,
    whole_columns,
)
from dqlab.data.formats.reading import DamagedError, check_readable, check_room, reading_errors, write_errors
from dqlab.files import atomic_path

NOTES = "metadata"


@data_formats.register("npz", source="numpy.savez; D4RL's names")
class Npz(Format):
    """numpy's archive with D4RL's names; with `next_observations` every row is kept, without them as D4RL does."""

    suffixes = (".npz",)

    def read(self, path: Path) -> Columns:
        check_readable(path)
        with reading_errors(path, "is truncated or no .npz archive of numbers"):
            return _read_archive(path)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed."""
        arrays = whole_columns(columns)
        if columns.metadata:
            arrays[NOTES] = np.array([json.dumps(dict(columns.metadata))])
        with write_errors(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _read_archive(path: Path) -> Columns:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_names(str(path), members)
        wanted = {name: members[name] for name in COLUMN_NAMES if name in members}
        check_room(path, sum(info.file_size for info in wanted.values()))
        arrays = {name: _member(path, archive, info) for name, info in wanted.items()}
        notes = _notes(path, archive, members[NOTES]) if NOTES in members else {}
    return checked_columns(str(path), arrays, notes)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """An array; all of its bytes are read, so that its checksum is compared."""
    with archive.open(info) as stream:
        array: NDArray[Any] = read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise DamagedError(f"{path}: '{info.filename}' has more bytes than its shape {array.shape} says.")
    return array


def _notes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, str]:
    """A JSON object in an array of one text, as `Npz.write` leaves it; anything else is somebody else's."""
    try:
        found = json.loads(_member(path, archive, info).item())
    except (ValueError, TypeError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}
