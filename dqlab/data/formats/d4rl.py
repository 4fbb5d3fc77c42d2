"""D4RL's HDF5 layout.

`observations` (n, S), `actions` (n, A), `rewards` (n,), `terminals` (n,), usually `timeouts` (n,), and `metadata/...`;
`next_observations` and `infos/...` may be there and are not read, as D4RL does not read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.blocks import raw_blocks
from dqlab.data.formats.base import Column, Columns, Format, data_formats
from dqlab.data.formats.checking import REQUIRED, DamagedError, check_claim, check_names, checked
from dqlab.errors import DataError
from dqlab.files import atomic_path

READ = (*REQUIRED, "timeouts")
WRITTEN = (*READ, "next_observations")
CHUNK_CACHE = 8 << 20


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)")
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        """The columns of a file."""
        import h5py

        if not path.is_file():
            raise DataError(f"There is no dataset at {path}. Check the path.")
        with _damage(path):
            file = h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE)
        with file:
            yield _columns(path, file)

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras."""
        arrays = {**{name: getattr(columns, name) for name in WRITTEN}, **columns.extras}
        write_hdf5(path, {name: array for name, array in arrays.items() if array is not None}, columns.metadata)


@dataclass(frozen=True)
class Stored:
    """A dataset of an HDF5 file; whatever fails while it is read is a DamagedError."""

    path: Path
    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return tuple(self.dataset.shape)

    @property
    def dtype(self) -> Any:
        """As stored."""
        return self.dataset.dtype

    @property
    def chunks(self) -> Any:
        """Shape of what is read at once, None if that is any rows."""
        return self.dataset.chunks

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        with _damage(self.path):
            return np.asarray(self.dataset[rows])


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """HDF5's library fails in many ways on a damaged file; all of them are the file's fault."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(
            f"{path} is truncated or not an HDF5 file ({why}). Delete it and fetch or write it again."
        ) from error


def _columns(path: Path, file: Any) -> Columns:
    with _damage(path):
        names = list(file)
        check_names(str(path), names)
        arrays: dict[str, Column] = {name: _stored(path, file, name) for name in READ if name in names}
        metadata = _metadata(file) if "metadata" in names else {}
    return checked(str(path), arrays, metadata)


def _stored(path: Path, file: Any, name: str) -> Stored:
    """A column that lies in this file: what a link or an external file points to is not read."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{path}: '{name}' is a link to another place, which is not followed. Copy the data into it.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise DataError(f"{path}: '{name}' is no array.")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: '{name}' lies in other files, which are not read. Copy the data into this one.")
    check_claim(f"{path}: '{name}'", dataset.nbytes, path.stat().st_size)
    return Stored(path, dataset)


def _metadata(file: Any) -> dict[str, str]:
    """Texts and numbers that lie directly in `metadata`."""
    import h5py

    group, found = file["metadata"], {}
    for name in group if isinstance(group, h5py.Group) else ():
        node = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(node, h5py.Dataset) and node.shape == ():
            value = node[()]
            found[name] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return found


def write_hdf5(path: Path, arrays: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, block by block, and `metadata/<name>` strings; compressed; whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    import h5py

    try:
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                _write_column(file, name, array)
            for name, text in metadata.items():
                file.create_dataset(f"metadata/{name}", data=text)
    except (OSError, RuntimeError) as error:
        raise DataError(f"Cannot write {path}: {error}. Free some space or choose another place.") from error


def _write_column(file: Any, name: str, column: Column) -> None:
    packing = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    dataset = file.create_dataset(name, column.shape, column.dtype, **packing)
    for start, block in raw_blocks(column):
        dataset[start : start + len(block)] = block
