"""Where the time of an update goes: torch's profiler records some updates of a run, which does not notice."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.files import atomic_path, write_text
from dqlab.noise import CHUNK
from dqlab.runs.measuring import format_count, format_seconds, format_share, measure_peak
from dqlab.training import Pack, Training
from dqlab.training.probe import flops_of_update

TRACE, SUMMARY = "trace.json.gz", "summary.md"
SETTINGS = {"KINETO_LOG_LEVEL": "6", "TEARDOWN_CUPTI": "0"}
"""Of the profiler's library: no chatter on stderr; no teardown, after which replays of CUDA graphs may crash."""


class ProfileRecorder:
    """Times some updates of a loop, and records some later ones.

    Args:
        pack: what is updated.
        plan: the run's; windows keep clear of its logs and evaluations.
        execution: name of the execution mode.
        folder: where `trace.json.gz` and `summary.md` go, each written whole or not at all.
    """

    def __init__(self, pack: Pack, plan: Training, execution: str, folder: Path) -> None:
        self._pack, self._plan, self._execution = pack, plan, execution
        self.folder, self._first = folder, pack.state.step
        self._main_figures = ""
        self._timed = timed_window(self._first, plan.steps, plan.next_stop)
        self._recorded = range(0)
        self._clock_read = self._seconds = 0.0
        self._profiler: profile | None = None

    @contextmanager
    def record_update(self, step: int) -> Iterator[None]:
        """The context of the update at a step."""
        if step == self._timed.start:
            self._clock_read = self._clock()
        with self._profiled(step) if step in self._recorded else nullcontext():
            yield
        if step + 1 == self._timed.stop and self._timed:
            self._seconds = (self._clock() - self._clock_read) / len(self._timed)
            self._recorded = recorded_window(step + 1, self._plan.steps, self._seconds, self._plan.next_stop)

    def lines(self) -> list[str]:
        """What there is to say when the run has ended: where the files are, and the main figures; or nothing."""
        if not self._main_figures:
            return []
        return [
            f"Profile:        {self.folder / SUMMARY}, {self.folder / TRACE}",
            f"                {self._main_figures}",
        ]

    def complaint(self) -> str:
        """Why nothing was recorded; empty if something was."""
        if self._main_figures:
            return ""
        done = self._pack.state.step - self._first
        if not self._timed:
            return f"--profile recorded nothing: only {done} updates were left, and it takes at least 3"
        return f"--profile recorded nothing: training ended too early, after {done} updates"

    def _clock(self) -> float:
        """Seconds, when all that was asked for has been done."""
        self._pack.synchronize()
        return time.perf_counter()

    @contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        """One update under the profiler, which starts with the first one and ends with the last one."""
        if step == self._recorded.start:
            self._profiler = self._started()
        with record_function(UPDATE):
            yield
        if step + 1 == self._recorded.stop:
            self._finish()

    def _started(self) -> profile:
        """A profiler at work, after a first event, which is slow, and with an idle device."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        on_gpu = [ProfilerActivity.CUDA] if self._pack.device.type == "cuda" else []
        profiler = profile(activities=[ProfilerActivity.CPU, *on_gpu])
        profiler.start()
        with record_function("dqlab: first event"):
            torch.zeros(1, device=self._pack.device)
        self._pack.synchronize()
        return profiler

    def _finish(self) -> None:
        """Stop, and write the files."""
        assert self._profiler is not None
        self._pack.synchronize()
        self._profiler.stop()
        text, on_gpu = _exported(self._profiler), self._pack.device.type == "cuda"
        figures = device_figures(json.loads(text)) if on_gpu else host_figures(self._profiler)
        self._profiler = None
        with atomic_path(self.folder / TRACE) as path:
            path.write_bytes(gzip.compress(text, 6))
        flops, peak = flops_of_update(self._pack, self._plan.batch_size), measure_peak(str(self._pack.device))
        seconds, share = format_seconds(self._seconds), format_share(flops / self._seconds / peak)
        rates = {
            "operations of the matrix products": f"{format_count(flops)}FLOP",
            "share of peak": f"{share} of {format_count(peak)}FLOP/s, measured on a large float32 product; by the time "
            "without the profiler",
        }
        self._main_figures = f"{seconds} an update ({self._execution}), {figures.summary}, {share} of peak"
        write_text(self.folder / SUMMARY, _page({**self._facts(figures), **rates, **figures.facts}, figures))

    def _facts(self, figures: ProfileFigures) -> dict[str, str]:
        """What was profiled, and how long an update took."""
        pack, width = self._pack, min(self._pack.width, self._pack.replicas)
        name = f" ({torch.cuda.get_device_name(pack.device)})" if pack.device.type == "cuda" else ""
        together = f" ({width} computed together)" if pack.replicas > 1 else ""
        draws = any(step % CHUNK == 0 for step in self._recorded)
        drawing = f"; the noise of {CHUNK} steps is drawn in one of them" if draws else ""
        return {
            "execution": self._execution,
            "device": f"{pack.device}{name}",
            "threads": str(torch.get_num_threads()),
            "replicas": f"{pack.replicas}{together}",
            "batch": f"{self._plan.batch_size:,}",
            "updates recorded": f"{len(self._recorded)} (from step {self._recorded.start:,}{drawing})",
            "time, without the profiler": f"{format_seconds(self._seconds)} (mean of {len(self._timed)} updates from "
            f"step {self._timed.start:,})",
            "time, under the profiler": format_seconds(figures.seconds),
        }


@dataclass(frozen=True)
class CostRow:
    """One line of the table of costs, per update."""

    name: str
    calls: float
    microseconds: float
    share: float


@dataclass(frozen=True)
class ProfileFigures:
    """What the host or the device did in the recorded updates, all of it per update.

    Attributes:
        seconds: of one update, under the profiler.
        summary: the main figures, in a line.
        facts: name -> text, for the page.
        unit: what the rows are, operators or kernels.
        note: how the rows are to be read.
        rows: the most expensive first.
    """

    seconds: float
    summary: str
    facts: Mapping[str, str]
    unit: str
    note: str
    rows: Sequence[CostRow]


SHOWN, WIDEST = 10, 72
"""Rows of the table of costs, and characters of a name."""


def _page(facts: Mapping[str, str], figures: ProfileFigures) -> str:
    """The one-page summary, in Markdown."""
    costs = [
        f"| `{shorten_name(row.name)}` | {row.calls:,.1f} | {row.microseconds:,.0f} | {format_share(row.share)} |"
        for row in figures.rows[:SHOWN]
    ]
    lines = [
        f"# Profile: {facts['execution']} on {facts['device']}",
        f"All figures are of one update of all replicas. `{TRACE}` opens in https://ui.perfetto.dev, or chrome://tracing.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]),
        f"## The most expensive {figures.unit}",
        figures.note,
        "\n".join(["| | calls | microseconds | share of the time |", "|---|---:|---:|---:|", *costs]),
    ]
    return "\n\n".join(lines) + "\n"


def shorten_name(name: str) -> str:
    """A name of an operator or kernel without what fills the line: return type, common namespaces, arguments."""
    if found := re.match(r"## Call (\w+) \w+ ##", name):
        return f"{found[1]}: its fused kernels and calls"
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("at::native::", "")
    plain = plain.split("(")[0].strip().replace("autograd::engine::evaluate_function", "autograd")
    return plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "..."


def _exported(profiler: profile) -> bytes:
    """The trace in Chrome's format."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return path.read_bytes()


UPDATE = "dqlab: update"
"""The annotation around every recorded update."""
COMPILED = "## Call CompiledFxGraph"
FUSED = "cpp_fused"
"""In the names of Inductor's kernels on a CPU, which the trace has if the compiler was told to name them."""


def host_figures(profiler: Any) -> ProfileFigures:
    """Figures of updates on a CPU, from the operators that the profiler has seen; those inside of others count once."""
    events = profiler.events() or []
    updates = [event for event in events if event.name == UPDATE]
    span = sum(event.cpu_time_total for event in updates)
    operators = _outermost(events, is_operator)
    graphs = any(event.name.startswith(COMPILED) for event in events)
    in_operators = sum(event.cpu_time_total for event in operators) / span
    in_both = sum(event.cpu_time_total for event in _outermost(events, _is_library)) / span
    each = f"{len(operators) / len(updates):,.1f}"
    shares = {"time in operators": in_operators}
    shares |= {"time in compiled graphs, outside of operators": in_both - in_operators} if graphs else {}
    shares |= {"time elsewhere (Python, autograd's engine)": 1 - in_both}
    own = "By the time they take themselves, without what they call, under the profiler, which delays each."
    more = " `TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE=1` names the fused kernels of compiled graphs (it compiles anew)."
    averages = [row for row in profiler.key_averages() if not row.is_user_annotation]
    times = {row.key: (row.count, row.self_cpu_time_total) for row in averages}
    return ProfileFigures(
        span / len(updates) / 1e6,
        f"{len(operators) / len(updates):,.0f} operators an update, {format_share(in_operators)} of the time in them",
        {"operators": each, **{name: format_share(share) for name, share in shares.items()}},
        "operators",
        own + (more if graphs else ""),
        _cost_rows(times, len(updates), span),
    )


def is_operator(name: str) -> bool:
    """Whether an event of the host is an operator or a compiled kernel: not autograd's engine, nor a compiled graph."""
    return ("::" in name and not name.startswith("autograd::")) or FUSED in name


def _is_library(name: str) -> bool:
    return is_operator(name) or name.startswith(COMPILED)


def _outermost(events: Iterable[Any], wanted: Callable[[str], bool]) -> list[Any]:
    """The wanted events of the updates that lie in no other wanted one."""

    def above(event: Any) -> Iterator[str]:
        while (event := event.cpu_parent) is not None:
            yield event.name

    found = ((event, list(above(event))) for event in events if wanted(event.name))
    return [event for event, names in found if UPDATE in names and not any(map(wanted, names))]


WORK = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")
LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")
WAITS = {f"cuda{what}Synchronize" for what in ("Stream", "Device", "Event")}
WAITS |= {f"cu{what}Synchronize" for what in ("Stream", "Ctx", "Event")}
WAITS |= {"cudaMemcpy", "cudaMemcpy2D"}
"""Calls after which the device has done something; after a `cudaMemcpyAsync` it need not have."""


def device_figures(trace: Mapping[str, Any]) -> ProfileFigures:
    """Figures of updates on a GPU, from the first update's start to the end of all work.

    The device must have been idle at the start, and the recording must end after all work.

    Args:
        trace: in Chrome's format, times in microseconds; it has what the host calls and the device does, on one clock.
    """
    events = [row for row in trace["traceEvents"] if row.get("ph") == "X"]
    updates = [row for row in events if row["name"] == UPDATE and row.get("cat") == "user_annotation"]
    start, end = min(row["ts"] for row in updates), max(row["ts"] + row["dur"] for row in updates)
    calls = [row["name"] for row in events if row.get("cat") in CALLS and start <= row["ts"] < end]
    work = [row for row in events if row.get("cat") in WORK and row["ts"] >= start]
    intervals = [(row["ts"], row["ts"] + row["dur"]) for row in work]
    span, count = max([end, *(last for _, last in intervals)]) - start, len(updates)
    kernels = sum(row["cat"] == "kernel" for row in work) / count
    launches = sum(name.startswith(LAUNCHES) for name in calls) / count
    waits = 100 * sum(name.split("_")[0] in WAITS for name in calls) / count  # a version may follow: _v3020, _ptsz
    idle = format_share(1 - covered_time(intervals) / span) if work else "not known: the trace has no kernels"
    times: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for row in work:
        times[row["name"]] = (times[row["name"]][0] + 1, times[row["name"]][1] + row["dur"])
    return ProfileFigures(
        span / count / 1e6,
        f"{kernels:,.0f} kernels an update, device idle {idle}{' of the time' if work else ''}",
        {
            "kernels": f"{kernels:,.1f}",
            "launches": f"{launches:,.1f}",
            "device idle": idle,
            "host waits for the device": f"{waits:,.1f} times in 100 updates",
        },
        "kernels",
        "Shares are of the recorded time; what runs at the same time counts for each.",
        _cost_rows(times, count, span),
    )


def covered_time(intervals: Iterable[tuple[float, float]]) -> float:
    """Time in which at least one of the intervals runs: what overlaps counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _cost_rows(times: Mapping[str, tuple[int, float]], updates: int, span: float) -> Sequence[CostRow]:
    ordered = sorted(times.items(), key=lambda item: -item[1][1])
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
    third = (steps - step) // 3
    first = step + min(WARM_UP, third)
    return _undisturbed(first, first + min(MOST, third), next_stop)


def recorded_window(step: int, steps: int, seconds: float, next_stop: NextStop) -> range:
    """The steps that are recorded: the next 50, fewer if they are slow or the run is short.

    Args:
        step, steps, next_stop: as for `timed_window`.
        seconds: of an update.
    """
    return _undisturbed(step, step + max(1, min(MOST, steps - step, int(LONGEST / seconds))), next_stop)


def _undisturbed(first: int, last: int, next_stop: NextStop) -> range:
    """The longest part of the steps from `first` to before `last` without a stop inside."""
    parts = [range(first, first)]
    while first < last:
        stop = min(next_stop(first), last)
        parts.append(range(first, stop))
        first = stop
    return max(parts, key=len)
