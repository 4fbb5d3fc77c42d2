"""Figures of the recorded updates, as functions of the trace's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dqlab.profiling.events import Event, Spent, covered, outermost, spent, spent_itself

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
class Row:
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
    rows: list[Row]


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
    rows: list[Row]


def host_figures(events: Sequence[Event]) -> HostFigures:
    """Figures of a trace of updates on a CPU."""
    updates, span = _updates(events), covered(_updates(events))
    inside = [event for event in _within(events, updates) if event.kind == "cpu_op"]
    operators = [event for event in inside if is_operator(event.name)]
    graphs = [event for event in inside if event.name.startswith(COMPILED)]
    in_operators, in_both = covered(operators), covered([*operators, *graphs])
    return HostFigures(
        len(updates),
        span / len(updates) / 1e6,
        len(outermost(operators)) / len(updates),
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
        1 - covered(work) / span,
        100 * waits / len(updates),
        _table(spent(work), len(updates), span),
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


def _table(sums: Mapping[str, Spent], updates: int, span: float) -> list[Row]:
    ordered = sorted(sums.items(), key=lambda item: -item[1].microseconds)
    return [Row(name, calls / updates, time / updates, time / span) for name, (calls, time) in ordered]
