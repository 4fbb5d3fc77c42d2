"""`dqlab train --profile`: the same run to the bit, the files, the figures; which updates are measured."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, bindings
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.runs.profile import UPDATE, device_figures, host_figures, recorded_window, timed_window
from dqlab.training import Training, checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin")]
FEW = ("Training.eval_every=30", "Training.log_every=15", "Training.eval_episodes=1", "DiffusionPolicy.n_timesteps=2")
STEPS = ["--steps", "30", "--seeds", "0", "3", *bindings(*FEW)]


def results(run: Path, seed: int) -> list[Any]:
    """All that a replica has recorded, but for times."""
    records = [json.loads(line) for line in (run / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"]
        record["metrics"].pop("train/updates_per_second", None)
    return [records, json.loads((run / f"seed-{seed}" / "summary.json").read_text())]


def test_a_profiled_run_and_the_same_without(dqlab: Run, in_process: Run, tmp_path: Path) -> None:
    done = dqlab(*QUICK, "--out", "profiled", "--profile", *STEPS)
    assert done.returncode == 0, done.stderr
    assert "USDT" not in done.stderr  # the chatter of the profiler's library
    assert in_process(*QUICK, "--out", "plain", "-q", *STEPS).returncode == 0
    profiled, plain = tmp_path / "profiled", tmp_path / "plain"
    assert "profiled/profile/summary.md, profiled/profile/trace.json.gz" in done.stdout
    assert re.search(r"an update \(eager\), operators [\d,.]+, time in operators [\d.]+%, [\d.]+% of peak", done.stdout)
    check_files(profiled)
    assert not (plain / "profile").exists()
    for seed in (0, 3):
        assert results(profiled, seed) == results(plain, seed)
    states = [checkpoint.read_checkpoint(run / "checkpoint.safetensors")[0] for run in (profiled, plain)]
    for group, tensors in states[0].items():
        assert all(torch.equal(value, states[1][group][name]) for name, value in tensors.items())


def check_files(run: Path) -> None:
    assert {path.name for path in (run / "profile").iterdir()} == {"summary.md", "trace.json.gz"}
    events = json.loads(gzip.decompress((run / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]
    page = (run / "profile" / "summary.md").read_text()
    facts = dict(re.findall(r"^\| (\S.*?) \| (.*?) \|$", page.split("## ")[0], re.MULTILINE))
    updates = [event for event in events if event["name"] == UPDATE]
    assert 1 <= len(updates) <= 15
    assert facts["updates recorded"].startswith(f"{len(updates)} (from step ")
    assert (facts["execution"], facts["replicas"]) == ("eager", "2 (1 computed together)")
    assert (facts["device"], facts["threads"], facts["batch"]) == ("cpu", "1", "8")
    assert float(facts["operators"].replace(",", "")) > 100
    shares = [float(facts[name].rstrip("%")) for name in facts if name.startswith("time ") and "%" in facts[name]]
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(100, abs=0.11)
    for name in ("time, without the profiler", "time, under the profiler", "operations of the matrix products"):
        assert float(facts[name].split()[0]) > 0
    assert re.match(r"[\d.]+% of [\d.]+ [GT]FLOP/s", facts["share of peak"])
    assert re.search(r"^ +aten::\w+ +[\d.]+%", page, re.MULTILINE)


def test_too_short_a_run_says_so(in_process: Run, tmp_path: Path) -> None:
    done = in_process(*QUICK, "--out", "run", "--profile", "-q", "--steps", "2", *bindings())
    assert (done.returncode, done.stdout) == (0, "")
    assert "--profile recorded nothing: only 2 updates were left, and it takes at least 3" in done.stderr
    assert not (tmp_path / "run" / "profile").exists()


def test_figures_of_a_cpu() -> None:
    """Two updates of `linear`, which calls `t` and others, and `relu`; Python between them is neither."""
    layer, batch = torch.nn.Linear(8, 8), torch.ones(4, 8)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            with record_function(UPDATE), torch.no_grad():
                torch.relu(layer(batch))
    averages = profiler.key_averages()
    operators = [row for row in averages if row.key.startswith("aten::")]
    own = sum(row.self_cpu_time_total for row in operators)
    figures = host_figures(averages, 2, own / 1e6)  # an update takes twice as long as its operators
    assert figures["operators"] == f"{sum(row.count for row in operators) / 2:.1f}"
    assert {figures[name] for name in figures if name.startswith("time ")} == {"50.0%"}


def row(key: str, count: int = 2, device: float = 0.0, annotation: bool = False) -> SimpleNamespace:
    kind = DeviceType.CUDA if device else DeviceType.CPU
    return SimpleNamespace(
        key=key, count=count, self_device_time_total=device, device_type=kind, is_user_annotation=annotation
    )


def test_figures_of_a_gpu() -> None:
    """Two updates of 50 us; the device works for 70 us of them."""
    calls = [row(UPDATE, annotation=True), row("cudaLaunchKernelExC_v11060"), row("cuLaunchKernel", 1)]
    calls += [row("cudaGraphLaunch_v10000", 1), row("cudaMemcpyAsync"), row("cudaStreamSynchronize", 1)]
    calls += [row("cudaMemcpy_v3020", 1), row("cudaDeviceSynchronize", 2), row("aten::addmm")]
    work = [row(UPDATE, device=95.0, annotation=True), row("gemm", device=40.0), row("add", device=20.0)]
    work += [row("Memcpy DtoH (Device -> Pageable)", 1, device=10.0)]
    assert device_figures([*calls, *work], 2, 50e-6) == {
        "kernels": "2.0",
        "device idle": "30.0%",
        "launches": "2.0",  # two of the runtime, one of the driver, one graph
        "host waits for the device": "100.0 times in 100 updates",  # one for a stream, one blocking copy
    }
    assert device_figures(calls, 2, 50e-6)["device idle"].startswith("not known")


FAST = 1e-4


def windows(start: int, plan: Training, seconds: float = FAST) -> tuple[range, range]:
    timed = timed_window(start, plan.steps, plan.next_stop)
    return timed, recorded_window(timed.stop, plan.steps, seconds, plan.next_stop)


@pytest.mark.parametrize(
    ("start", "plan", "seconds", "timed", "recorded"),
    [
        (0, Training(log_every=1000), FAST, range(20, 70), range(70, 120)),
        (1030, Training(log_every=1000), FAST, range(1050, 1100), range(1100, 1150)),  # a resumed run
        (940, Training(log_every=1000), FAST, range(960, 1000), range(1000, 1050)),  # cut short by a log
        (0, Training(log_every=20, eval_every=40), FAST, range(20, 40), range(40, 60)),
        (0, Training(), 0.1499, range(20, 70), range(70, 80)),  # slow ones are few
        (0, Training(), 5.0, range(20, 70), range(70, 71)),
        (0, Training(steps=60, log_every=60), FAST, range(20, 40), range(40, 60)),
        (0, Training(steps=3), FAST, range(1, 2), range(2, 3)),
    ],
)
def test_which_updates_are_measured(start: int, plan: Training, seconds: float, timed: range, recorded: range) -> None:
    assert windows(start, plan, seconds) == (timed, recorded)


@pytest.mark.parametrize("done", [0, 60])
def test_fewer_than_three_updates_are_not_measured(done: int) -> None:
    assert not timed_window(done, done + 2, Training(steps=done + 2).next_stop)


@given(
    start=st.integers(0, 500),
    left=st.integers(3, 400),
    log_every=st.integers(1, 300),
    eval_every=st.integers(1, 300),
    seconds=st.floats(1e-6, 10.0),
)
def test_windows_are_never_empty_or_out_of_order(
    start: int, left: int, log_every: int, eval_every: int, seconds: float
) -> None:
    plan = Training(steps=start + left, log_every=log_every, eval_every=eval_every)
    timed, recorded = windows(start, plan, seconds)
    assert start < timed.start < timed.stop <= recorded.start < recorded.stop <= plan.steps
    for window in (timed, recorded):
        assert len(window) <= 50
        assert plan.next_stop(window.start) >= window.stop
