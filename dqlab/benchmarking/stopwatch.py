"""Times calls by a clock, over as many in a row as the clock needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUND_SECONDS = 0.02
"""A round takes at least that long, so that the clock and a single hiccup of the machine do not matter."""
MOST_CALLS = 10_000

Call = Callable[[], object]


def nothing() -> None:
    """Wait for nothing: on a CPU a call that has returned is done."""


@dataclass(frozen=True)
class Stopwatch:
    """Times calls.

    Attributes:
        synchronize: called before each reading of the clock, e.g. `torch.cuda.synchronize`.
        clock: returns seconds.
    """

    synchronize: Call = nothing
    clock: Callable[[], float] = time.perf_counter

    def seconds(self, call: Call, calls: int = 1) -> float:
        """Seconds of one call, over `calls` in a row."""
        self.synchronize()
        start = self.clock()
        for _ in range(calls):
            call()
        self.synchronize()
        return (self.clock() - start) / calls

    def calls_a_round(self, call: Call) -> int:
        """How many calls in a row take `ROUND_SECONDS`, at most `MOST_CALLS`; one where a call takes longer."""
        calls = 1
        while calls < MOST_CALLS:
            elapsed = calls * self.seconds(call, calls)
            if elapsed >= ROUND_SECONDS:
                break
            growth = ROUND_SECONDS / elapsed if elapsed > 0 else 10.0
            calls = math.ceil(calls * min(max(growth * 1.1, 1.5), 10.0))  # a first, cold estimate is not trusted far
        return min(calls, MOST_CALLS)
