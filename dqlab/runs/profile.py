"""Where the time of an update goes: torch's profiler records some updates of a run, which does not notice."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.files import atomic_path, write_text
from dqlab.noise import CHUNK
from dqlab.runs.measuring import format_seconds, format_share
from dqlab.training import Pack, Training

TRACE, SUMMARY = "trace.json.gz", "summary.md"
SETTINGS = {"KINETO_LOG_LEVEL": "6", "TEARDOWN_CUPTI": "0"}
"""Of the profiler's library: no chatter on stderr; no teardown, after which replays of CUDA graphs may crash."""
UPDATE = "dqlab: update"
"""The annotation around every recorded update."""
SHOWN, WIDEST = 15, 60
"""Rows of the table of costs, and characters of a name."""


class ProfileRecorder:
    """Records some updates of a loop, once it has warmed up.

    Args:
        pack: what is updated.
        plan: the run's; nothing is logged or evaluated between the updates that are recorded.
        execution: name of the execution mode.
        folder: where `trace.json.gz` and `summary.md` go, each written whole or not at all.
    """

    def __init__(self, pack: Pack, plan: Training, execution: str, folder: Path) -> None:
        self._pack, self._plan, self._execution, self.folder = pack, plan, execution, folder
        self._first = pack.state.step
        self._start, self._count = first_recorded(self._first, plan), 0
        self._on_gpu = pack.device.type == "cuda"
        self._profiler: profile | None = None
        self._began = 0.0
        self._main_figures = ""

    @contextmanager
    def record_update(self, step: int) -> Iterator[None]:
        """The context of the update at a step."""
        if step < self._start or self._main_figures:
            yield
            return
        if self._profiler is None:
            self._begin()
        with record_function(UPDATE):
            yield
        self._count += 1
        stops = step + 1 == self._plan.next_stop(step)
        if stops or self._count == MOST or time.perf_counter() - self._began > LONGEST:
            self._finish()

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
        done = self._pack.state.step - self._first
        return (
            "" if self._main_figures else f"--profile recorded nothing: training ended too early, after {done} updates"
        )

    def _clock(self) -> float:
        """Seconds, when all that was asked for has been done."""
        self._pack.synchronize()
        return time.perf_counter()

    def _begin(self) -> None:
        """Let the profiler begin, with a first event, which is slow."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profiler = profile(activities=activities)
        self._profiler.start()
        with record_function("dqlab: first event"):
            torch.zeros(1, device=self._pack.device)
        self._began = self._clock()

    def _finish(self) -> None:
        """Stop, and write the files."""
        assert self._profiler is not None
        seconds = (self._clock() - self._began) / self._count
        self._profiler.stop()
        with atomic_path(self.folder / TRACE) as path, TemporaryDirectory() as folder:
            self._profiler.export_chrome_trace(f"{folder}/{TRACE}")
            shutil.copyfile(f"{folder}/{TRACE}", path)
        averages = self._profiler.key_averages()
        figures = (device_figures if self._on_gpu else host_figures)(averages, self._count, seconds)
        words = ", ".join(f"{name} {value}" for name, value in list(figures.items())[:2])
        self._main_figures = f"{format_seconds(seconds)} an update under the profiler ({self._execution}), {words}"
        by = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        costs = averages.table(sort_by=by, row_limit=SHOWN, max_name_column_width=WIDEST)
        write_text(self.folder / SUMMARY, _page({**self._facts(seconds), **figures}, costs))
        self._profiler = None

    def _facts(self, seconds: float) -> dict[str, str]:
        """What was profiled, and how long an update took."""
        pack, width = self._pack, min(self._pack.width, self._pack.replicas)
        name = f" ({torch.cuda.get_device_name(pack.device)})" if self._on_gpu else ""
        together = f" ({width} computed together)" if pack.replicas > 1 else ""
        recorded = range(self._start, self._start + self._count)
        drawing = (
            f"; the noise of {CHUNK} steps is drawn in one of them" if any(s % CHUNK == 0 for s in recorded) else ""
        )
        return {
            "execution": self._execution,
            "device": f"{pack.device}{name}",
            "threads": str(torch.get_num_threads()),
            "replicas": f"{pack.replicas}{together}",
            "batch": f"{self._plan.batch_size:,}",
            "updates recorded": f"{self._count} (from step {self._start:,}{drawing})",
            "time, under the profiler": format_seconds(seconds),
        }


WARM_UP, MOST = 20, 50
"""Updates before anything is recorded, in which libraries and allocators settle; and those recorded."""
LONGEST = 3.0
"""Seconds that the recorded updates may take: what bounds the trace's size."""


def first_recorded(step: int, plan: Training) -> int:
    """The step from which updates are recorded: after the warm-up, or from the log after it if that gives more.

    Args:
        step: updates done.
        plan: the run's.
    """
    start = step + min(WARM_UP, (plan.steps - step) // 2)
    stop = plan.next_stop(start)
    return max([start, *([stop] if stop < plan.steps else [])], key=lambda at: min(plan.next_stop(at) - at, MOST))


def _page(facts: Mapping[str, str], costs: str) -> str:
    """The one-page summary, in Markdown."""
    named = (
        " `TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE=1` names the fused kernels of compiled graphs (it compiles anew)."
    )
    lines = [
        f"# Profile: {facts['execution']} on {facts['device']}",
        f"All figures are of one update of all replicas. `{TRACE}` opens in https://ui.perfetto.dev, or chrome://tracing.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]),
        "## The most expensive operators and kernels",
        "PyTorch's own table, of all updates recorded; the profiler delays each operator."
        + (named if COMPILED in costs else ""),
        f"```\n{costs.strip()}\n```",
    ]
    return "\n\n".join(lines) + "\n"


COMPILED = "## Call CompiledFxGraph"
FUSED = "cpp_fused"
"""In the names of Inductor's kernels on a CPU, which the profiler sees if the compiler was told to name them."""


def host_figures(averages: Sequence[Any], updates: int, seconds: float) -> dict[str, str]:
    """Figures of an update on a CPU; times are those that operators take themselves, without what they call.

    Args:
        averages: as `profile.key_averages` gives them.
        updates: how many were recorded.
        seconds: of one of them, under the profiler.
    """
    own = [row for row in averages if not row.is_user_annotation]
    operators = [row for row in own if is_operator(row.key)]
    graphs = [row for row in own if row.key.startswith(COMPILED)]
    in_operators, in_graphs = (
        sum(row.self_cpu_time_total for row in rows) / (1e6 * seconds * updates) for rows in (operators, graphs)
    )
    shares = {"time in operators": in_operators, **({"time in compiled graphs": in_graphs} if graphs else {})}
    shares["time elsewhere (Python, autograd's engine)"] = 1 - in_operators - in_graphs
    calls = sum(row.count for row in operators) / updates
    return {"operator calls": f"{calls:,.1f}", **{name: format_share(share) for name, share in shares.items()}}


def is_operator(name: str) -> bool:
    """Whether an event of the host is an operator or a compiled kernel: not autograd's engine, nor a compiled graph."""
    return ("::" in name and not name.startswith("autograd::")) or FUSED in name


LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")
WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize", "cuStreamSynchronize", "cuEventSynchronize"}
WAITS |= {"cudaMemcpy", "cudaMemcpy2D"}
"""Calls after which the device has done something; not `cudaDeviceSynchronize`, by which the recorder itself waits."""


def device_figures(averages: Sequence[Any], updates: int, seconds: float) -> dict[str, str]:
    """Figures of an update on a GPU, idle before the first one; what runs at the same time counts for each.

    Args:
        averages, updates, seconds: as of `host_figures`; until all work has been done.
    """
    own = [row for row in averages if not row.is_user_annotation]
    work = [row for row in own if row.device_type == DeviceType.CUDA]
    busy = sum(row.self_device_time_total for row in work) / (1e6 * seconds * updates)

    def count(wanted: Callable[[Any], bool]) -> float:
        return float(sum(row.count for row in own if wanted(row))) / updates

    kernels = count(lambda row: row.device_type == DeviceType.CUDA and not row.key.startswith(("Memcpy", "Memset")))
    waits = 100 * count(lambda row: row.key.split("_")[0] in WAITS)  # a version may follow: _v3020, _ptsz
    return {
        "kernels": f"{kernels:,.1f}",
        "device idle": format_share(max(0.0, 1 - busy)) if work else "not known: the profiler saw no kernels",
        "launches": f"{count(lambda row: row.key.startswith(LAUNCHES)):,.1f}",
        "host waits for the device": f"{waits:,.1f} times in 100 updates",
    }
