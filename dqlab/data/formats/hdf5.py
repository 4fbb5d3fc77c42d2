"""HDF5 files read by a process of their own: columns that lie in the file itself, and its texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Column
from dqlab.data.formats.checking import LONGEST_NOTES, UnreadError, check_claim, check_unlocked, unreadable
from dqlab.data.formats.guard import Guarded, guarded, limit_memory
from dqlab.errors import DataError

CHUNK_CACHE = 8 << 20
COPIES = 4
"""Of what is read, that are in memory for a moment."""
MARKED = "already open for"
"""What HDF5's library says of files in its latest format which nobody has closed after writing."""
PATIENCE = 300.0
"""Seconds in which a block must have been read."""


@dataclass(frozen=True)
class Stored:
    """A dataset of an open file.

    Attributes:
        child: what reads it.
        name: in the file.
        shape: rows first.
        dtype: as stored.
        chunks: shape of what is read at once; None if that is any rows.
    """

    child: Guarded
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
    with guarded(str(path), partial(_opened, path), PATIENCE) as child:
        there = child.ask("names")
        check(there)
        yield {name: _stored(child, name) for name in names if name in there}


def _stored(child: Guarded, name: str) -> Stored:
    facts = child.ask("describe", name)
    chunks = tuple(facts["chunks"]) if facts["chunks"] else None
    return Stored(child, name, tuple(facts["shape"]), np.dtype(facts["dtype"]), chunks)


class Notes(Mapping[str, str]):
    """Texts and numbers that lie directly in a file's group `metadata`; read when the first is asked for.

    Raises:
        DamagedError: they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _found(self) -> dict[str, str]:
        with guarded(str(self._path), partial(_opened, self._path), PATIENCE) as child:
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
    """Of what HDF5 unpacks at once, by its shape; 0 where nothing is packed."""
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
        raise unreadable(str(path), "is truncated or not an HDF5 file", error) from error


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
    group, left = file["metadata"], LONGEST_NOTES
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
