"""numpy's `.npz` with D4RL's names."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from dqlab.data.formats import base
from dqlab.data.formats.base import COLUMN_NAMES, Columns, Format, data_formats
from dqlab.files import atomic_path

NOTES = "metadata"


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
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Those of the named arrays that an archive has, and what is said of them; a DataError where it cannot be read.

    `check` is called with the names of all that there are, before anything is read.
    """
    base.check_readable(path)
    with base.reading_errors(path, "is truncated or no .npz archive of numbers"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check(members)
        wanted = {name: members[name] for name in names if name in members}
        base.check_room(path, sum(info.file_size for info in wanted.values()))
        arrays = {name: _member(path, archive, info) for name, info in wanted.items()}
        return arrays, _notes(path, archive, members[NOTES]) if NOTES in members else {}


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """An array; all of its bytes are read, so that its checksum is compared."""
    with archive.open(info) as stream:
        array: NDArray[Any] = read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise base.DamagedError(f"{path}: '{info.filename}' has more bytes than its shape {array.shape} says.")
    return array


def _notes(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, str]:
    """A JSON object in an array of one text, as `Npz.write` leaves it; anything else is somebody else's."""
    try:
        found = json.loads(_member(path, archive, info).item())
    except (ValueError, TypeError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}
