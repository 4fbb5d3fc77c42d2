"""What every format checks before it hands out columns: names, shapes, dtypes, and how much is claimed to be there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dqlab.data.formats.base import Column, Columns
from dqlab.errors import DataError, first_line, lacks_memory
from dqlab.printing import names as listed

TABLES = ("observations", "actions", "next_observations")
REQUIRED = ("observations", "actions", "rewards", "terminals")
KNOWN = (*REQUIRED, "timeouts", "next_observations")

MOST_COMPRESSED = 1100
"""Deflate, the best of the usual compressions, makes at most 1032 bytes out of one."""
SMALL = 1 << 20
LONGEST_NOTES = 1 << 20
"""Bytes of a dataset's metadata above which they are not read."""


class UnreadError(DataError):
    """A dataset could not be read just now, or not on this machine; that says nothing of the dataset."""


class DamagedError(DataError):
    """The bytes of a dataset are not what their format prescribes; a fresh copy may be."""


IN_USE = "is in use: another process has it open, and may be writing it. Wait until that one has closed it."
BUSY = {errno.EAGAIN, errno.EBUSY, errno.ETXTBSY}
MACHINES = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}
"""Errors of the machine, its disks and its permissions, which say nothing of a file."""


def unreadable(where: str, what: str, error: BaseException, mend: str = "") -> DataError:
    """What is to be raised where reading fails: the fault is the file's unless the error says whose else it is.

    Args:
        where: what messages call the dataset.
        what: it is, if it is damaged.
        error: that was met.
        mend: what to do if it is damaged.
    """
    why = first_line(error)[:200]  # what a file says of itself may be endless
    if lacks_memory(error):
        return UnreadError(f"{where} cannot be read: there is not enough memory ({why}).")
    if isinstance(error, OSError) and error.errno in BUSY:
        return UnreadError(f"{where} {IN_USE}")
    if isinstance(error, OSError) and error.errno in MACHINES:
        return UnreadError(f"{where} cannot be read: {error.strerror or why}.")
    if isinstance(error, ImportError):
        return UnreadError(f"{where} needs a module that cannot be imported here: {why}. Install it, or use --plugin.")
    return DamagedError(f"{where} {what} ({why}). {mend}".rstrip())


def check_unlocked(path: Path) -> None:
    """See that no other process writes a file: HDF5's library locks one as long as it is open for writing.

    Raises:
        DataError: another process does.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise unreadable(str(path), "", error) from error


@dataclass(frozen=True)
class Flat:
    """A column (n, 1), as some files keep them, seen as (n,)."""

    column: Column

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,)."""
        return self.column.shape[:1]

    @property
    def dtype(self) -> Any:
        """The column's."""
        return self.column.dtype

    @property
    def chunks(self) -> Any:
        """The column's, if it is stored in chunks."""
        return getattr(self.column, "chunks", None)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self.column[rows].reshape(-1)


def check_claim(where: str, claimed: int, stored: int) -> None:
    """Refuse a file that claims to hold more than bytes can be compressed to.

    Args:
        where: what messages call the dataset.
        claimed: bytes of all its columns, by their shapes.
        stored: bytes of the file.

    Raises:
        DamagedError: it is damaged, or made to fill the memory.
    """
    if claimed > MOST_COMPRESSED * stored + SMALL:
        raise DamagedError(f"{where} claims to hold {claimed:,} bytes in a file of {stored:,}: it is damaged.")


def check_names(where: str, names: Collection[str]) -> None:
    """See that all columns are there that every dataset has.

    Raises:
        DataError: one is missing; the message says what is there.
    """
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise DataError(
            f"{where} has no '{missing[0]}' (it has: {listed(names) or 'nothing'}); not a dataset in D4RL's layout."
        )


def checked(where: str, arrays: Mapping[str, Column], metadata: Mapping[str, str] | None = None) -> Columns:
    """Columns by D4RL's names, their shapes and dtypes checked; values are not looked at.

    Args:
        where: what messages call the dataset, such as its path.
        arrays: by name; `timeouts` and `next_observations` may be absent, others are ignored.
        metadata: what is said of the set.

    Raises:
        DataError: a column is missing, shapes disagree with each other, or a dtype is not of real numbers.
    """
    check_names(where, arrays)
    known = {name: _shaped(where, name, arrays[name]) for name in KNOWN if name in arrays}
    rows = known["observations"].shape[0]
    for name, column in known.items():
        if column.shape[0] != rows:
            raise DataError(f"{where}: '{name}' has {column.shape[0]} rows, 'observations' has {rows}.")
    following = known.get("next_observations")
    if following is not None and following.shape != known["observations"].shape:
        raise DataError(
            f"{where}: 'next_observations' has shape {following.shape}, 'observations' {known['observations'].shape}."
        )
    if rows < (2 if following is None else 1):
        raise DataError(f"{where}: {rows} row(s) make no transition.")
    return Columns(**known, metadata=metadata or {}, extras={}, where=where)


def _shaped(where: str, name: str, column: Column) -> Column:
    expected, shape = 2 if name in TABLES else 1, tuple(column.shape)
    flat = expected == 1 and len(shape) == 2 and shape[1] == 1
    if len(shape) != expected and not flat:
        raise DataError(f"{where}: '{name}' has shape {shape}, expected {expected} dimension(s).")
    if column.dtype.kind not in "biuf":
        raise DataError(f"{where}: '{name}' has dtype {column.dtype}, expected numbers.")
    if expected == 2 and shape[1] == 0:
        raise DataError(f"{where}: '{name}' has shape {shape}: rows of nothing.")
    return Flat(column) if flat else column


def check_widths(columns: Columns, state_dim: int | None, action_dim: int | None) -> None:
    """See that a dataset is as wide as the task's states and actions, where these are given.

    Raises:
        DataError: it is another task's.
    """
    for name, column, width in (
        ("observations", columns.observations, state_dim),
        ("actions", columns.actions, action_dim),
    ):
        if width is not None and column.shape[1] != width:
            raise DataError(
                f"{columns.where}: '{name}' is {column.shape[1]} wide, the task's is {width}. Another task's file?"
            )
