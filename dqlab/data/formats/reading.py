"""Files that nobody vouches for, read by a child process with a memory limit; and whose fault it is where that fails.

HDF5's library crashes on a few flipped bytes, or hangs, and small archives and pickles unpack to gigabytes. All of that
then ends the child, and is one message here.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import os
import resource
import signal
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import COLUMN_NAMES, Columns, Format
from dqlab.errors import DataError, DqlabError, first_line, lacks_memory
from dqlab.machine import available_memory, in_words


class UnreadError(DataError):
    """A dataset could not be read just now, or not on this machine; that says nothing of the dataset."""


class DamagedError(DataError):
    """The bytes of a dataset are not what their format prescribes; a fresh copy may be."""


class CrashedError(DamagedError):
    """The library that a child called has crashed."""


Answer = Callable[..., Any]
PATIENCE = 300.0
"""Seconds in which a child must have answered."""


@contextmanager
def child_process(
    where: str, opening: Callable[[], tuple[Any, Answer]], damaged: str, waits: bool = False
) -> Iterator[tuple[Any, Answer]]:
    """Within this, a forked process answers questions about a file.

    Args:
        where: what messages call the file.
        opening: run by that process; gives a first answer, and what makes the further ones.
        damaged: what is said of the file where reading it fails: `is truncated or no archive`.
        waits: whether an answer may take longer than `PATIENCE`.

    Yields:
        The first answer, and a function that has a question answered by that process.

    Raises:
        DataError: it cannot be opened; the function raises it where the file cannot be read.
    """
    here, there = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be threads; the child uses none of their locks
        pid = os.fork()
    if pid == 0:
        here.close()
        _serve(there, where, opening, damaged)
    there.close()

    def ask(*question: Any) -> Any:
        try:
            here.send(question)
            return _receive(here, where, None if waits else PATIENCE)
        except (EOFError, OSError) as error:
            raise _crashed(pid, where) from error

    try:
        yield ask(), ask
    finally:
        here.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _serve(pipe: Connection, where: str, opening: Callable[[], tuple[Any, Answer]], damaged: str) -> NoReturn:
    """Answer until the other process closes its end, or ends."""
    answer: Answer | None = None
    try:
        _be_quiet()
        while True:
            question = pipe.recv()
            try:
                if answer is None:
                    value, answer = opening()
                else:
                    value = answer(*question)
            except DqlabError as error:
                value = error
            except Exception as error:
                value = reading_error(where, damaged, error)
            _send(pipe, value)
    finally:
        os._exit(0)


def _be_quiet() -> None:
    """What a child dies of is said by its parent; an interrupt is the parent's."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _send(pipe: Connection, value: Any) -> None:
    """Arrays go as raw bytes: pickled, they would be copied twice more."""
    if isinstance(value, np.ndarray):
        pipe.send((value.shape, value.dtype))
        if value.nbytes:
            pipe.send_bytes(_as_bytes(np.ascontiguousarray(value)))
    else:
        pipe.send(value)


def _receive(pipe: Connection, where: str, patience: float | None) -> Any:
    if not pipe.poll(patience):
        raise UnreadError(
            f"{where} cannot be read: the library gave no answer in {patience:.0f} seconds. It is damaged, or its disk "
            "does not answer."
        )
    value = pipe.recv()
    if isinstance(value, DqlabError):
        raise value
    if isinstance(value, tuple) and isinstance(value[1], np.dtype):
        array = np.empty(*value)
        if array.nbytes:
            pipe.recv_bytes_into(_as_bytes(array))
        return array
    return value


def _as_bytes(array: NDArray[Any]) -> Any:
    return array.reshape(-1).view(np.uint8).data


def _crashed(pid: int, where: str) -> DataError:
    """Whoever is killed from outside, as the system does where memory runs out, has not met a damaged file."""
    ended = None
    with contextlib.suppress(ChildProcessError):  # asked in vain once it was left
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_code == os.CLD_KILLED and ended.si_status == signal.SIGKILL:
        return UnreadError(f"{where} cannot be read: what reads it was killed. Is there memory left?")
    return CrashedError(f"{where} is damaged: the library that reads it crashed.")


ROOM = 1 << 30
"""Bytes that a child may take beyond those that reading needs."""


def limit_memory(needed: int) -> None:
    """Let a child take this many more bytes from now on, and some room, whatever a file unpacks to."""
    with contextlib.suppress(OSError):  # where there is no /proc, there is no such limit
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + needed + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


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


@contextmanager
def write_errors(path: Path, advice: str = DISK_ADVICE) -> Iterator[None]:
    """Within this, what the system cannot write becomes one message, with what to do about it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}. {advice}".rstrip()) from error


class IsolatedFormat(Format):
    """A format that a child process reads: libraries crash on damaged files, and small ones may unpack to more than
    there is room for.

    Attributes:
        damaged: what is said of a dataset that cannot be read.
    """

    damaged = "is damaged"

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        self.prepare(path)
        where = self.title(path)
        with child_process(where, partial(_open_columns, self.load, path), self.damaged) as ((found, metadata), ask):
            columns: dict[str, Any] = {name: ChildColumn(ask, name, *facts) for name, facts in found.items()}
            yield Columns(**columns, metadata=metadata, where=where)

    def title(self, path: Path) -> str:
        """What messages call a dataset."""
        return str(path)

    def prepare(self, path: Path) -> None:
        """Before there is a child: see that the dataset may be read, and import what reads it, once for all children.

        Raises:
            DataError: it is not there, or in use.
        """
        if not path.is_file():
            raise DataError(f"There is no dataset at {path}. Check the path.")

    @abstractmethod
    def load(self, path: Path) -> Columns:
        """In the child: the columns, in memory or read as they are asked for; what is raised is the file's damage."""


@dataclass(frozen=True)
class ChildColumn:
    """A column of which a child process reads the rows."""

    ask: Answer
    name: str
    shape: tuple[int, ...]
    dtype: Any
    chunks: tuple[int, ...] | None

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, step = rows.indices(self.shape[0])
        values: NDArray[Any] = self.ask(self.name, start, stop)
        return values[::step]


COPIES = 4
"""As many copies of what is read are in memory for a moment."""


def _open_columns(load: Callable[[Path], Columns], path: Path) -> tuple[Any, Answer]:
    """In the child: shape, dtype and chunks of each column, and the metadata; and what reads rows."""
    limit_memory(0)
    columns = load(path)
    known = {name: column for name in COLUMN_NAMES if (column := getattr(columns, name)) is not None}

    def read_rows(name: str, start: int, stop: int) -> NDArray[Any]:
        column = known[name]
        row = prod(column.shape[1:]) * column.dtype.itemsize
        chunk = prod(getattr(column, "chunks", None) or (0,)) * column.dtype.itemsize
        limit_memory(COPIES * ((stop - start) * row + chunk))
        return np.asarray(column[start:stop])

    facts = {name: (tuple(each.shape), each.dtype, getattr(each, "chunks", None)) for name, each in known.items()}
    return (facts, dict(columns.metadata)), read_rows


def allow_memory(where: object, needed: int) -> None:
    """In the child, before that many bytes are read at once.

    Raises:
        UnreadError: there is no room for them.
    """
    if needed > available_memory():
        raise UnreadError(f"{where} takes {in_words(needed)} of memory, {in_words(available_memory())} are free.")
    limit_memory(COPIES * needed)


MOST_COMPRESSED = 1100
"""Deflate, the best of the usual compressions, makes at most 1032 bytes out of one."""


ALWAYS_CLAIMED = 1 << 20
"""Bytes that any file may claim to hold."""


MOST_METADATA = 1 << 20
"""Bytes of a dataset's metadata above which they are not read."""


def check_claim(where: str, claimed: int, stored: int) -> None:
    """Refuse a file that claims to hold more than bytes can be compressed to.

    Args:
        where: what messages call the dataset.
        claimed: bytes of all its columns, by their shapes.
        stored: bytes of the file.

    Raises:
        DamagedError: it is damaged, or made to fill the memory.
    """
    if claimed > MOST_COMPRESSED * stored + ALWAYS_CLAIMED:
        raise DamagedError(f"{where} claims to hold {claimed:,} bytes in a file of {stored:,}: it is damaged.")
