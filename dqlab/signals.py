"""SIGTERM, SIGHUP and Ctrl-C: a command is asked to stop, and ends within seconds, with the exit code of the signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SECONDS = 8.0
"""After which a process ends that has not heeded: its update, or a step of its environment, takes so long."""


@dataclass
class Asked:
    """Whether a signal has asked to stop.

    Attributes:
        event: set by a signal, once there is something to save.
        saves: whether there is: until then a signal ends the command as Ctrl-C does.
        number: of the first signal; 0 for none.
    """

    event: threading.Event = field(default_factory=threading.Event)
    saves: bool = False
    number: int = 0

    @property
    def code(self) -> int:
        """The exit code of who was asked."""
        return 128 + self.number


@contextmanager
def asked_to_stop(seconds: float = SECONDS) -> Iterator[Asked]:
    """Within this, a signal asks to stop; a second one ends the process at once, and so does the time.

    A signal that is ignored (nohup) stays so.

    Args:
        seconds: how long whoever is asked may take.
    """
    asked = Asked()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def heed(number: int, frame: object) -> None:
        asked.number = asked.number or number
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGHUP:
            _leave(terminals)
        if not asked.saves:
            raise KeyboardInterrupt
        asked.event.set()
        timer = threading.Timer(seconds, _end, [asked.code])
        timer.daemon = True
        timer.start()

    before = {number: signal.getsignal(number) for number in NUMBERS}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, heed)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(terminals: list[int]) -> None:
    """A terminal that has hung up can't be written to any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(nowhere, number)


def _end(code: int) -> None:
    with suppress(OSError):
        print("dqlab: not done in time: ended as it is; the last checkpoint is at most a minute old", file=sys.stderr)
    os._exit(code)
