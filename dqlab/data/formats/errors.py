"""What goes wrong where datasets are read and written: whose fault it is, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from dqlab.errors import DataError, first_line, lacks_memory


class UnreadError(DataError):
    """A dataset could not be read just now, or not on this machine; that says nothing of the dataset."""


class DamagedError(DataError):
    """The bytes of a dataset are not what their format prescribes; a fresh copy may be."""


IN_USE = "is in use: another process has it open, and may be writing it. Wait until that one has closed it."
BUSY = {errno.EAGAIN, errno.EBUSY, errno.ETXTBSY}
MACHINES = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}
"""Errors of the machine, its disks and its permissions, which say nothing of a file."""


def reading_error(where: str, what: str, error: BaseException, mend: str = "") -> DataError:
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
            raise reading_error(str(path), "", error) from error


DISK_ADVICE = "Free some space or choose another place."


@contextlib.contextmanager
def write_errors(path: Path, advice: str) -> Iterator[None]:
    """Within this, what the system cannot write becomes one message, with what to do about it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}. {advice}".rstrip()) from error
