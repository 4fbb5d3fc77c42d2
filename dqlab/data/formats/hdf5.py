"""HDF5 as D4RL lays it out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqlab.data.download import BrokenError
from dqlab.data.formats import base
from dqlab.data.formats.base import Columns, Format, data_formats
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, first_line
from dqlab.files import atomic_path
from dqlab.machine import memory_limit

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"  # what every HDF5 file begins with


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)", cites=("fu2020d4rl",))
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    def read(self, path: Path) -> Columns:
        with _opened(path) as (stored, metadata):
            size = sum(dataset.nbytes for dataset in stored.values())
            base.check_room(path, size)
            with memory_limit(4 * size + UNPACKING):
                arrays = {name: dataset[:] for name, dataset in stored.items()}
            return base.checked_columns(str(path), arrays, metadata)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras.

        The file is made in memory: HDF5's library may crash long after it has met a full disk.
        """
        import h5py

        made = io.BytesIO()
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


UNPACKING = 1 << 29  # bytes that reading may take beside the rows: chunks of a damaged file may unpack to more


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """A file's columns, not read yet, and its metadata: texts and numbers that lie directly in that group."""
    import h5py

    base.check_readable(path)
    with base.reading_errors(path, "is truncated or not an HDF5 file"), h5py.File(path, "r", locking=False) as file:
        base.check_names(str(path), file)
        stored = {name: file.get(name) for name in (*base.REQUIRED_COLUMNS, "timeouts", "masks") if name in file}
        for name, dataset in stored.items():
            here = isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(dataset, h5py.Dataset)
            if not here or not dataset.shape or dataset.external or dataset.is_virtual:
                raise DataError(f"{path}: '{name}' is no array that lies in this file. Copy the data into it.")
        group = file.get("metadata")
        nodes = {name: group.get(name) for name in group} if isinstance(group, h5py.Group) else {}
        told = {name: node[()] for name, node in nodes.items() if isinstance(node, h5py.Dataset) and node.shape == ()}
        yield stored, {name: v.decode(errors="replace") if isinstance(v, bytes) else str(v) for name, v in told.items()}


PROVENANCE, CONVERTED = "provenance", "converted_from"
COLLECTED = "Collected by dqlab"
SHARE, ABOUT = 0.5, 0.01  # of D4RL's rows: an excerpt has a smaller share; margin where they are not counted


def is_original_d4rl_file(path: Path, task: Task) -> bool:
    """Whether an HDF5 file may be D4RL's: it has rows enough, and does not say that dqlab collected or converted it."""
    try:
        with _opened(path) as (stored, notes):
            ours = CONVERTED in notes or notes.get(PROVENANCE, "").startswith(COLLECTED)
            return not ours and len(stored["observations"]) >= SHARE * task.rows
    except DataError:  # damaged: whoever reads the rows says so
        return True


def check_row_count(address: str, path: Path, task: Task) -> None:
    """See that a file from elsewhere has as many rows as D4RL's, about as many where they are not counted.

    A BrokenError where it has not, or is no file of D4RL's layout.
    """
    try:
        with _opened(path) as (stored, _):
            rows = len(stored["observations"])
    except DataError as error:
        raise BrokenError(f"{address} sends something else than {task.name}: {error}") from error
    about, margin = ("", 0.0) if task.counted else ("about ", ABOUT * task.rows)
    if abs(rows - task.rows) > margin:
        raise BrokenError(f"{address} sends {rows:,} rows for {task.name}, which has {about}{task.rows:,}.")
