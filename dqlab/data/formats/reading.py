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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dqlab.errors import DataError, DqlabError, first_line, lacks_memory


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
