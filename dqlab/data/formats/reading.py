"""Whose fault it is where a dataset cannot be read or written: the file's, the machine's, or another process's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dqlab.errors import DataError, DqlabError, first_line, lacks_memory
from dqlab.machine import available_memory, in_words


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
    why = " ".join(first_line(error)[:200].split())  # what a file says of itself may be endless
    if lacks_memory(error):
        return UnreadError(f"{where} cannot be read: there is not enough memory for what it claims to hold ({why}).")
    if "already open for" in why:  # HDF5 marks files in its latest format until they are closed
        return UnreadError(f"{where} is marked as being written: it is in use, or its writer was killed ({why}).")
    if isinstance(error, OSError) and error.errno in BUSY:
        return UnreadError(f"{where} {IN_USE}")
    if isinstance(error, OSError) and error.errno in MACHINES:
        return UnreadError(f"{where} cannot be read: {os.strerror(error.errno)}.")
    if isinstance(error, ImportError):
        return UnreadError(f"{where} needs a module that cannot be imported here: {why}. Install it, or use --plugin.")
    return DamagedError(f"{where} {what} ({why}). {mend}".rstrip())


@contextmanager
def reading_errors(where: object, what: str) -> Iterator[None]:
    """Within this, whatever libraries raise becomes what `reading_error` makes of it."""
    try:
        yield
    except DqlabError:
        raise
    except Exception as error:
        raise reading_error(str(where), what, error) from error


def check_readable(path: Path) -> None:
    """See that a dataset's file is there, and that no other process writes it.

    HDF5's library locks a file as long as it is open for writing.

    Raises:
        DataError: it is not there, or in use.
    """
    if not path.is_file():
        raise DataError(f"There is no dataset at {path}. Check the path.")
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise reading_error(str(path), "", error) from error


def check_room(where: object, needed: int) -> None:
    """See that there is memory for that many bytes.

    Raises:
        UnreadError: there is not.
    """
    if needed > (free := available_memory()):
        raise UnreadError(
            f"{where} cannot be read: there is not enough memory for what it claims to hold "
            f"({in_words(needed)}, {in_words(free)} are free)."
        )


DISK_ADVICE = "Free some space or choose another place."


@contextmanager
def write_errors(where: object, advice: str = DISK_ADVICE) -> Iterator[None]:
    """Within this, what the system cannot write becomes one message, with what to do about it."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises both, at length
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else first_line(error)
        raise DataError(f"Cannot write {where}: {why}. {advice}".rstrip()) from error
