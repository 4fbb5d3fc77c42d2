"""Reading by a process of its own, so that a library which crashes or hangs on a damaged file ends nothing else.

HDF5's library does: a few flipped bytes in the index of a chunked dataset are enough for a segmentation fault.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.errors import DamagedError, UnreadError, reading_error
from dqlab.errors import DataError

Answer = Callable[..., Any]
REFUSALS: dict[str, type[DataError]] = {"damaged": DamagedError, "unread": UnreadError, "": DataError}
"""What the other process may raise, by the word that it sends."""
ROOM = 1 << 30
"""Bytes that a process which reads may take beyond what it was given and what is asked of it."""


class IsolatedReader:
    """The process that reads, as whoever asks sees it; `isolated_reader` makes it.

    Args:
        where: what messages call the dataset.
        pid: of the process.
        pipe: to it.
        patience: seconds for one answer; None for ever.
    """

    def __init__(self, where: str, pid: int, pipe: Connection, patience: float | None) -> None:
        self.where, self._pid, self._pipe, self._patience = where, pid, pipe, patience

    def ask(self, *question: Any) -> Any:
        """An answer: plain values, or an array.

        Raises:
            DataError: the question is refused.
            DamagedError: the file cannot be read; also where the process crashed or hangs.
        """
        try:
            self._pipe.send_bytes(json.dumps(question).encode())
            return self._answer()
        except (EOFError, OSError) as error:
            raise self._crashed() from error

    def _answer(self) -> Any:
        head = json.loads(self._receive())
        if "refused" in head:
            raise REFUSALS[head["kind"]](head["refused"])
        if "dtype" not in head:
            return head["value"]
        array = np.empty(head["shape"], dtype=np.dtype(head["dtype"]))
        if array.nbytes:
            self._wait()
            self._pipe.recv_bytes_into(_bytes(array))
        return array

    def _receive(self) -> bytes:
        self._wait()
        return self._pipe.recv_bytes()

    def _wait(self) -> None:
        if not self._pipe.poll(self._patience):
            raise UnreadError(
                f"{self.where} cannot be read: the library gave no answer in {self._patience:.0f} seconds. It is "
                "damaged, or its disk does not answer."
            )

    def _crashed(self) -> DataError:
        """Whoever is killed from outside, as the system does where memory runs out, has not met a damaged file."""
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code == os.CLD_KILLED and ended.si_status == signal.SIGKILL:
            return UnreadError(f"{self.where} cannot be read: what reads it was killed. Is there memory left?")
        return DamagedError(f"{self.where} is damaged: the library that reads it crashed.")

    def end(self) -> None:
        """End the process."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


@contextmanager
def isolated_reader(
    where: str, opening: Callable[[], AbstractContextManager[Answer]], patience: float | None
) -> Iterator[IsolatedReader]:
    """A process that opens something and answers questions about it until the context ends.

    Args:
        where: what messages call the dataset.
        opening: what that process opens; gives a function from a question to its answer, values for JSON or an array.
        patience: seconds for one answer; None for ever.

    Raises:
        DataError: it cannot be opened.
    """
    here, there = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # there may be threads; the process uses none of their locks
        pid = os.fork()
    if pid == 0:
        here.close()
        _serve(there, opening)
    there.close()
    child = IsolatedReader(where, pid, here, patience)
    try:
        child.ask()
        yield child
    finally:
        child.end()


def _serve(pipe: Connection, opening: Callable[[], AbstractContextManager[Answer]]) -> NoReturn:
    """Answer until the asking process closes its end, or ends."""
    try:
        _be_quiet()
        pipe.recv_bytes()
        with opening() as answer:
            _send(pipe, None)
            while True:
                question = json.loads(pipe.recv_bytes())
                _reply(pipe, answer, question)
    except DataError as error:
        _refuse(pipe, error)
    except MemoryError as error:
        _refuse(pipe, reading_error("The dataset", "", error))
    except BaseException:
        pass
    finally:
        os._exit(0)


def _be_quiet() -> None:
    """What this process dies of is said by the other one; an interrupt is the other one's."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def limit_memory(needed: int) -> None:
    """In the process that reads: from now on it gets this many more bytes and some room, whatever a file unpacks to."""
    with contextlib.suppress(OSError):  # where there is no /proc, there is no such limit
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + needed + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _reply(pipe: Connection, answer: Answer, question: list[Any]) -> None:
    try:
        _send(pipe, answer(*question))
    except DataError as error:
        _refuse(pipe, error)


def _send(pipe: Connection, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        pipe.send_bytes(json.dumps({"value": value}).encode())
        return
    array: NDArray[Any] = np.ascontiguousarray(value)
    pipe.send_bytes(json.dumps({"shape": array.shape, "dtype": array.dtype.str}).encode())
    if array.nbytes:
        pipe.send_bytes(_bytes(array))


def _bytes(array: NDArray[Any]) -> Any:
    return array.reshape(-1).view(np.uint8).data


def _refuse(pipe: Connection, error: DataError) -> None:
    kind = next(name for name, known in REFUSALS.items() if isinstance(error, known))
    pipe.send_bytes(json.dumps({"refused": str(error), "kind": kind}).encode())
