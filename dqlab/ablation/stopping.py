"""Ctrl-C, SIGTERM, a limit of hours: packs are asked to save and end; asked again, they are killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

FIRST = "packs write their checkpoints and end. Ctrl-C ends them at once."
SECOND = "Ending at once; the same command continues from the last checkpoints."


@contextmanager
def stopping(stop: Callable[[], None], say: Callable[[str], None], hours: float = 0.0) -> Iterator[threading.Event]:
    """Within this, a signal calls `stop` instead of ending the process.

    Args:
        stop: asks an engine; called at every signal.
        say: told what happens.
        hours: after which the same happens by itself; 0: never. More than a timer can wait for (centuries) is cut.

    Yields:
        An event that is set once it has happened.
    """
    stopped = threading.Event()

    def heed(reason: str) -> None:
        told = SECOND if stopped.is_set() else f"{reason}: {FIRST}"
        stopped.set()
        stop()
        with suppress(RuntimeError):  # the signal may have come while something else was printed
            say(told)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: heed("Stopping")) for number in numbers}
    timer = threading.Timer(min(3600 * hours, threading.TIMEOUT_MAX), heed, [f"The grid's {hours:g} hours are over"])
    timer.daemon = True
    if hours:
        timer.start()
    try:
        yield stopped
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
