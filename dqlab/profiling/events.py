"""Events of a trace: intervals on threads of the host and streams of a device, and sums over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Event(NamedTuple):
    """Something that took time.

    Attributes:
        name: of an operator, a kernel, a call, ...
        start, duration: microseconds.
        kind: the profiler's category: `cpu_op`, `kernel`, `gpu_memcpy`, `cuda_runtime`, `user_annotation`, ...
        thread: on which it ran; events of one thread are nested or disjoint.
    """

    name: str
    start: float
    duration: float
    kind: str
    thread: Hashable = 0

    @property
    def end(self) -> float:
        """When it ended, microseconds."""
        return self.start + self.duration


class Spent(NamedTuple):
    """What all events of one name took together: their number, and microseconds."""

    calls: int
    microseconds: float


def events_of(trace: Mapping[str, Any]) -> list[Event]:
    """The intervals of a trace in Chrome's format, as torch.profiler exports it."""
    return [
        Event(row["name"], float(row["ts"]), float(row["dur"]), row.get("cat", ""), (row.get("pid"), row.get("tid")))
        for row in trace["traceEvents"]
        if row.get("ph") == "X"
    ]


def covered(events: Iterable[Event]) -> float:
    """Microseconds in which at least one of the events runs: what overlaps, on any threads, counts once."""
    total, reached = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def nested(events: Sequence[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Every event with the innermost other one of its thread in which it lies (None: in none), parents first."""
    open_on: dict[Hashable, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.start, -event.duration)):
        stack = open_on[event.thread]
        while stack and stack[-1].end <= event.start:
            stack.pop()
        yield event, stack[-1] if stack else None
        stack.append(event)


def outermost(events: Sequence[Event]) -> list[Event]:
    """The events that lie in no other one of theirs."""
    return [event for event, parent in nested(events) if parent is None]


def spent(events: Iterable[Event]) -> dict[str, Spent]:
    """By name, what the events took."""
    sums: dict[str, Spent] = defaultdict(lambda: Spent(0, 0.0))
    for event in events:
        sums[event.name] = Spent(sums[event.name].calls + 1, sums[event.name].microseconds + event.duration)
    return dict(sums)


def spent_itself(events: Sequence[Event]) -> dict[str, Spent]:
    """By name, what the events took without those that lie in them."""
    sums = spent(events)
    for event, parent in nested(events):
        if parent is not None:
            calls, microseconds = sums[parent.name]
            sums[parent.name] = Spent(calls, microseconds - event.duration)
    return sums
