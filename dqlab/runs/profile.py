"""Where the time of an update goes: torch's profiler records some updates of a run, which does not notice."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, schedule

from dqlab.files import atomic_path, write_text
from dqlab.printing import markdown_table
from dqlab.training import Pack, Training

TRACE, SUMMARY = "trace.json.gz", "summary.md"
SETTINGS = {"KINETO_LOG_LEVEL": "6", "TEARDOWN_CUPTI": "0"}
"""Of the profiler's library: no chatter on stderr; no teardown, after which replays of CUDA graphs may crash."""
WARM_UP, MOST = 20, 20
"""Updates before anything is recorded, in which libraries and allocators settle; and those recorded at most."""


class ProfileRecorder:
    """Records some updates of a loop, those at `steps`, once it has warmed up; never across a log or an evaluation."""

    def __init__(self, pack: Pack, plan: Training, execution: str, folder: Path) -> None:
        self._pack, self._plan, self._execution, self._folder = pack, plan, execution, folder
        done = pack.state.step
        first = done + min(WARM_UP, (plan.steps - done) // 2)
        self.steps = range(first, min(first + MOST, plan.next_stop(first)))
        self._on_gpu = pack.device.type == "cuda"
        warm_up, skipped = min(1, first - done), max(0, first - done - 1)
        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])],
            schedule=schedule(skip_first=skipped, wait=0, warmup=warm_up, active=len(self.steps), repeat=1),
            on_trace_ready=self._write,
        )
        self._began = self._seconds = 0.0

    @contextmanager
    def record_update(self, step: int) -> Iterator[None]:
        """The context of the update at a step."""
        if step >= self.steps.stop:
            yield
            return
        if self._profiler.step_num == 0:
            for name, value in SETTINGS.items():
                os.environ.setdefault(name, value)
            self._profiler.start()
        if step == self.steps.start:
            self._pack.synchronize()
            self._began = time.perf_counter()
        yield
        if step == self.steps[-1]:
            self._pack.synchronize()
            self._seconds = (time.perf_counter() - self._began) / len(self.steps)
        self._profiler.step()
        if step == self.steps[-1]:
            self._profiler.stop()

    def lines(self) -> list[str]:
        """What there is to say when the run has ended: where the files are, and how long an update took."""
        if not self._seconds:
            return ["Profile:        nothing was recorded: training ended too early"]
        return [
            f"Profile:        {self._folder / SUMMARY}, {self._folder / TRACE}",
            f"                {1e3 * self._seconds:.3g} ms an update under the profiler ({self._execution})",
        ]

    def _write(self, profiler: Any) -> None:
        if not self._seconds:  # training has ended before
            return
        with atomic_path(self._folder / TRACE) as path, TemporaryDirectory() as folder:
            profiler.export_chrome_trace(f"{folder}/{TRACE}")
            shutil.copyfile(f"{folder}/{TRACE}", path)
        pack, width, averages = self._pack, min(self._pack.width, self._pack.replicas), profiler.key_averages()
        facts = {
            "execution": self._execution,
            "device": torch.cuda.get_device_name(pack.device) if self._on_gpu else str(pack.device),
            "threads": str(torch.get_num_threads()),
            "replicas": f"{pack.replicas}" + (f" ({width} computed together)" if pack.replicas > 1 else ""),
            "batch": f"{self._plan.batch_size:,}",
            "updates recorded": f"{len(self.steps)} (from step {self.steps.start:,})",
            "time of an update, under the profiler": f"{1e3 * self._seconds:.3g} ms",
        }
        work = [row for row in averages if row.device_type == DeviceType.CUDA and not row.is_user_annotation]
        if work:  # on a GPU: kernels and copies, and the share of time without any, as they overlap
            busy = 1e-6 * sum(row.self_device_time_total for row in work) / len(self.steps)
            facts["kernels and copies"] = f"{sum(row.count for row in work) / len(self.steps):,.1f}"
            facts["device idle"] = f"{100 * max(0.0, 1 - busy / self._seconds):.1f}%"
        by = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        costs = averages.table(sort_by=by, row_limit=15, max_name_column_width=60)
        sections = [
            f"# Profile: {self._execution} on {pack.device}",
            f"`{TRACE}` opens in https://ui.perfetto.dev, or chrome://tracing.",
            markdown_table(("", ""), facts.items()),
            "## The most expensive operators and kernels",
            "PyTorch's own table, of all updates recorded; the profiler delays each operator.",
            f"```\n{costs.strip()}\n```",
        ]
        write_text(self._folder / SUMMARY, "\n\n".join(sections) + "\n")
