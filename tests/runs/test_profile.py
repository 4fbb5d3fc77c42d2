"""`dqlab train --profile`: the same run to the bit, the files, the figures; which updates are recorded."""

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
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.runs.profile import UPDATE, ProfileRecorder, device_figures, first_recorded, host_figures
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
    assert re.search(
        r"an update under the profiler \(eager\), operator calls [\d,.]+, time in operators [\d.]+%\n", done.stdout
    )
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
    assert facts["updates recorded"] == f"{len(updates)} (from step 15)"
    assert 1 <= len(updates) <= 15
    assert (facts["execution"], facts["replicas"]) == ("eager", "2 (1 computed together)")
    assert (facts["device"], facts["threads"], facts["batch"]) == ("cpu", "1", "8")
    assert float(facts["operator calls"].replace(",", "")) > 100
    shares = [float(facts[name].rstrip("%")) for name in facts if name.startswith("time ") and "%" in facts[name]]
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(100, abs=0.11)
    assert float(facts["time, under the profiler"].split()[0]) > 0
    assert re.search(r"^ +aten::\w+ +[\d.]+%", page, re.MULTILINE)


def test_a_run_that_ends_too_early_says_so() -> None:
    """As one that diverges in its first updates; nothing is written."""
    state = SimpleNamespace(step=0)
    pack = SimpleNamespace(state=state, device=torch.device("cpu"))
    recorder = ProfileRecorder(pack, Training(steps=100), "eager", Path("nowhere"))  # type: ignore[arg-type]
    for state.step in range(8):
        with recorder.record_update(state.step):
            pass
    assert recorder.lines() == []
    assert recorder.complaint().endswith("recorded nothing: training ended too early, after 7 updates")


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
    assert figures["operator calls"] == f"{sum(row.count for row in operators) / 2:.1f}"
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


@pytest.mark.parametrize(
    ("done", "plan", "first"),
    [
        (0, Training(log_every=1000), 20),
        (1030, Training(log_every=1000), 1050),  # a resumed run
        (940, Training(log_every=1000), 1000),  # the log at 1000 would cut it short
        (0, Training(log_every=20, eval_every=40), 20),
        (0, Training(steps=60, log_every=60), 20),
        (0, Training(steps=45, log_every=40), 20),
        (0, Training(steps=3), 1),
        (9, Training(steps=10), 9),
    ],
)
def test_where_recording_begins(done: int, plan: Training, first: int) -> None:
    assert first_recorded(done, plan) == first
