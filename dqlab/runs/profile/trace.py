"""Figures of the recorded updates, as functions of the trace's events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dqlab.noise import CHUNK


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


class EventTotal(NamedTuple):
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


def covered_time(events: Iterable[Event]) -> float:
    """Microseconds in which at least one of the events runs: what overlaps, on any threads, counts once."""
    total, reached = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def nest_events(events: Sequence[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Every event with the innermost other one of its thread in which it lies (None: in none), parents first."""
    open_on: dict[Hashable, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.start, -event.duration)):
        stack = open_on[event.thread]
        while stack and stack[-1].end <= event.start:
            stack.pop()
        yield event, stack[-1] if stack else None
        stack.append(event)


def outermost_events(events: Sequence[Event]) -> list[Event]:
    """The events that lie in no other one of theirs."""
    return [event for event, parent in nest_events(events) if parent is None]


def time_spent(events: Iterable[Event]) -> dict[str, EventTotal]:
    """By name, what the events took."""
    sums: dict[str, EventTotal] = defaultdict(lambda: EventTotal(0, 0.0))
    for event in events:
        sums[event.name] = EventTotal(sums[event.name].calls + 1, sums[event.name].microseconds + event.duration)
    return dict(sums)


def spent_itself(events: Sequence[Event]) -> dict[str, EventTotal]:
    """By name, what the events took without those that lie in them."""
    sums = time_spent(events)
    for event, parent in nest_events(events):
        if parent is not None:
            calls, microseconds = sums[parent.name]
            sums[parent.name] = EventTotal(calls, microseconds - event.duration)
    return sums


UPDATE = "dqlab: update"
"""The annotation around every recorded update."""
WORK = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")
WAITS = {f"cuda{what}Synchronize" for what in ("Stream", "Device", "Event")}
WAITS |= {f"cu{what}Synchronize" for what in ("Stream", "Ctx", "Event")}
WAITS |= {"cudaMemcpy", "cudaMemcpy2D"}
"""Calls after which the device has done something; after a `cudaMemcpyAsync` it need not have."""
COMPILED = "## Call CompiledFxGraph"
FUSED = "cpp_fused"
"""In the names of Inductor's kernels on a CPU, which the trace has if the compiler was told to name them."""


@dataclass(frozen=True)
class CostRow:
    """One line of the table of costs, per update."""

    name: str
    calls: float
    microseconds: float
    share: float


@dataclass(frozen=True)
class HostFigures:
    """What the host did in the recorded updates.

    Attributes:
        updates: recorded.
        seconds: of one update, under the profiler.
        operators: calls of the tensor library's operators an update; those inside another operator do not count.
        in_operators: share of the time inside of them.
        in_graphs: share of the time inside compiled graphs, but outside of operators: fused kernels, calls.
        rows: operators and other parts of the library by the time they take themselves, the most expensive first.
    """

    updates: int
    seconds: float
    operators: float
    in_operators: float
    in_graphs: float
    rows: list[CostRow]


@dataclass(frozen=True)
class DeviceFigures:
    """What a GPU did in the recorded updates.

    Attributes:
        updates: recorded.
        seconds: of one update, under the profiler.
        kernels, launches: an update; a captured graph is one launch of many kernels.
        idle: share of the time in which nothing runs on the device, no kernel and no copy.
        waits: times that the host waits for the device, in 100 updates.
        rows: kernels and copies, the most expensive first.
    """

    updates: int
    seconds: float
    kernels: float
    launches: float
    idle: float
    waits: float
    rows: list[CostRow]


def host_figures(events: Sequence[Event]) -> HostFigures:
    """Figures of a trace of updates on a CPU."""
    updates, span = _updates(events), covered_time(_updates(events))
    inside = [event for event in _within(events, updates) if event.kind == "cpu_op"]
    operators = [event for event in inside if is_operator(event.name)]
    graphs = [event for event in inside if event.name.startswith(COMPILED)]
    in_operators, in_both = covered_time(operators), covered_time([*operators, *graphs])
    return HostFigures(
        len(updates),
        span / len(updates) / 1e6,
        len(outermost_events(operators)) / len(updates),
        in_operators / span,
        (in_both - in_operators) / span,
        _table(spent_itself(inside), len(updates), span),
    )


def device_figures(events: Sequence[Event]) -> DeviceFigures:
    """Figures of a trace of updates on a GPU, from the first update's start to the end of all work.

    The device must have been idle at the start, and the recording must end after all work.
    """
    updates = _updates(events)
    start = min(event.start for event in updates)
    work = [event for event in events if event.kind in WORK and event.start >= start]
    calls = [event for event in _within(events, updates) if event.kind in CALLS]
    span = max(event.end for event in [*updates, *work]) - start
    kernels = sum(event.kind == "kernel" for event in work)
    launches = sum(event.name.startswith(LAUNCHES) for event in calls)
    waits = sum(_is_wait(event.name) for event in calls)
    return DeviceFigures(
        len(updates),
        span / len(updates) / 1e6,
        kernels / len(updates),
        launches / len(updates),
        1 - covered_time(work) / span,
        100 * waits / len(updates),
        _table(time_spent(work), len(updates), span),
    )


def is_operator(name: str) -> bool:
    """Whether an event of the host is an operator or a compiled kernel: not autograd's engine, nor a compiled graph."""
    return ("::" in name and not name.startswith("autograd::")) or FUSED in name


def _is_wait(name: str) -> bool:
    """Whether the host waits in a call of CUDA, whose version may be a suffix (`_v3020`, `_ptsz`)."""
    return name.split("_")[0] in WAITS


def _updates(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.name == UPDATE and event.kind == "user_annotation"]


def _within(events: Sequence[Event], updates: Sequence[Event]) -> list[Event]:
    """Events that start while the updates are under way."""
    start, end = min(event.start for event in updates), max(event.end for event in updates)
    return [event for event in events if start <= event.start < end]


def _table(sums: Mapping[str, EventTotal], updates: int, span: float) -> list[CostRow]:
    ordered = sorted(sums.items(), key=lambda item: -item[1].microseconds)
    return [CostRow(name, calls / updates, time / updates, time / span) for name, (calls, time) in ordered]


WARM_UP = 20
"""Updates before anything is measured, in which libraries and allocators settle."""
MOST = 50
"""Updates measured."""
LONGEST = 1.5
"""Seconds that the recorded updates may take without the profiler: what bounds the trace's size."""
NextStop = Callable[[int], int]
"""From a step to the next one at which something is logged or evaluated."""


def timed_window(step: int, steps: int, next_stop: NextStop) -> range:
    """The steps that are timed without the profiler: 50 after the warm-up of 20, fewer in a short run.

    Args:
        step: updates done.
        steps: updates in all.
        next_stop: see `NextStop`.

    Returns:
        Empty where fewer than three updates are left: one each to warm up, to time, and to record.
    """
    left = steps - step
    warm_up = min(WARM_UP, left // 3)
    count = min(MOST, left // 3)
    return _undisturbed(step + warm_up, step + warm_up + count, next_stop)


def recorded_window(step: int, steps: int, seconds: float, next_stop: NextStop) -> range:
    """The steps that are recorded: 50 around the next drawing of noise, fewer if they are slow or the run is short.

    Args:
        step, steps, next_stop: as for `timed_window`.
        seconds: of an update.
    """
    count = max(1, min(MOST, steps - step, int(LONGEST / seconds)))
    drawing = _next_drawing(step)
    first = min(max(step, drawing - count // 2), steps - count)
    return _undisturbed(first, first + count, next_stop)


def draws_noise(window: range) -> bool:
    """Whether the noise of the next 100 steps is drawn in a window."""
    return _next_drawing(window.start) in window


def _next_drawing(step: int) -> int:
    return -(-step // CHUNK) * CHUNK


def _undisturbed(first: int, last: int, next_stop: NextStop) -> range:
    """The longest part of the steps from `first` to before `last` without a stop inside; where the noise is drawn."""
    parts = [range(first, first)]
    while first < last:
        stop = min(next_stop(first), last)
        parts.append(range(first, stop))
        first = stop
    return max(parts, key=lambda part: (len(part), draws_noise(part), part.start))
