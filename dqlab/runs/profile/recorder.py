"""Records some updates of a run with torch's profiler; the run does not notice."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.files import atomic_path, write_text
from dqlab.runs.profile.page import SUMMARY, TRACE, Profile, main_figures, profile_page
from dqlab.runs.profile.peak import measure_peak
from dqlab.runs.profile.trace import (
    UPDATE,
    Event,
    device_figures,
    events_of,
    host_figures,
    recorded_window,
    timed_window,
)
from dqlab.training import Pack, Training
from dqlab.training.probe import flops_of_update

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
        self.profile: Profile | None = None
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
        if self.profile is None:
            return []
        return [
            f"Profile:        {self.folder / SUMMARY}, {self.folder / TRACE}",
            f"                {main_figures(self.profile)}",
        ]

    def complaint(self) -> str:
        """Why nothing was recorded; empty if something was."""
        if self.profile is not None:
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
        text, self._profiler = _exported(self._profiler), None
        self.profile = self._profile(events_of(json.loads(text)))
        with atomic_path(self.folder / TRACE) as path:
            path.write_bytes(gzip.compress(text, 6))
        write_text(self.folder / SUMMARY, profile_page(self.profile))

    def _profile(self, events: list[Event]) -> Profile:
        pack, on_gpu = self._pack, self._pack.device.type == "cuda"
        name = torch.cuda.get_device_name(pack.device) if on_gpu else ""
        return Profile(
            execution=self._execution,
            device=f"{pack.device} ({name})" if name else str(pack.device),
            threads=torch.get_num_threads(),
            replicas=pack.replicas,
            width=min(pack.width, pack.replicas),
            batch=self._plan.batch_size,
            timed=self._timed,
            recorded=self._recorded,
            seconds=self._seconds,
            flops=flops_of_update(pack, self._plan.batch_size),
            peak=measure_peak(str(pack.device)),
            figures=device_figures(events) if on_gpu else host_figures(events),
        )


def _exported(profiler: profile) -> bytes:
    """The trace in Chrome's format."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return path.read_bytes()
