"""Formats of datasets: how each is read, column by column and block by block, and written."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from dqlab.errors import ConfigError
from dqlab.files import sha256_of
from dqlab.registry import Registry


class Column(Protocol):
    """An array on disk or in memory, of which rows `[a:b]` are read without the others; h5py's and numpy's are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def dtype(self) -> Any:
        """numpy's."""

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some rows, in memory."""


@dataclass(frozen=True)
class Columns:
    """The rows of a dataset, in order, episode after episode. Shapes and dtypes are checked, values are not.

    Attributes:
        observations (n, S), actions (n, A), rewards (n,): numbers.
        terminals (n,): the environment ended the episode here.
        timeouts (n,): the episode was cut here; None where that is not recorded.
        next_observations (n, S): what followed each row, known also where an episode was cut; None where what follows
            is the next row's observation, as in D4RL's files.
        metadata: what is said of the set, by name.
        extras: further columns (n, ...) by name, such as D4RL's `infos/qpos`, which formats write that have a place for
            them.
        where: what messages call the set, usually its path.
    """

    observations: Column
    actions: Column
    rewards: Column
    terminals: Column
    timeouts: Column | None = None
    next_observations: Column | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Column] = field(default_factory=dict)
    where: str = "the dataset"

    def __len__(self) -> int:
        return self.observations.shape[0]


class Format(ABC):
    """A file format.

    Attributes:
        suffixes: of its files, such as `.hdf5`; empty where a dataset is not a file.
    """

    suffixes: tuple[str, ...] = ()

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[Columns]:
        """The columns, readable within the context.

        Raises:
            DataError: the file is missing, damaged or not of this format; what is in it has wrong shapes or dtypes.
        """

    def place(self, path: Path) -> Path:
        """The file or folder that holds the dataset, or would hold it.

        Raises:
            DataError: no dataset of this format can have that name.
        """
        return path

    def digest(self, path: Path) -> str:
        """SHA-256 of the file or folder at `place`, hexadecimal; of names and contents where it is a folder."""
        return digest_of(self.place(path))

    def write(self, path: Path, columns: Columns) -> None:
        """Write a dataset, block by block, whole or not at all.

        Raises:
            DataError: the file cannot be written, or this format cannot say what is in the columns.
            ConfigError: this format is only read.
        """
        raise ConfigError(f"{path}: {type(self).__name__} is a format that is only read. Choose another one.")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by their relative names, hexadecimal."""
    if not path.is_dir():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


data_formats: Registry[type[Format]] = Registry(
    "data_format", "A file format of datasets: `dqlab data convert`, and `file:PATH` as a source.", arguments=0
)
