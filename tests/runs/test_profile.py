"""`dqlab train --profile`: the same run to the bit, the files, the figures; which updates are recorded."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, Run, bindings
from made_packs import check_same

from dqlab.runs.profile import ProfileRecorder
from dqlab.training import Training

QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin")]
FEW = ("Training.eval_every=30", "Training.log_every=15", "Training.eval_episodes=1", "DiffusionPolicy.n_timesteps=2")
STEPS = ["--steps", "30", "--seeds", "0", "3", *bindings(*FEW)]


def test_a_profiled_run_and_the_same_without(dqlab: Run, in_process: Run, tmp_path: Path) -> None:
    done = dqlab(*QUICK, "--out", "profiled", "--profile", *STEPS)
    assert done.returncode == 0, done.stderr
    assert "USDT" not in done.stderr  # the chatter of the profiler's library
    assert in_process(*QUICK, "--out", "plain", "-q", *STEPS).returncode == 0
    profiled, plain = tmp_path / "profiled", tmp_path / "plain"
    assert "profiled/profile/summary.md, profiled/profile/trace.json.gz" in done.stdout
    assert re.search(r"[\d.]+ ms an update under the profiler \(eager\)\n", done.stdout)
    assert not (plain / "profile").exists()
    for name in ("seed-0", "seed-3"):
        check_same(profiled, name, plain)
    assert {path.name for path in (profiled / "profile").iterdir()} == {"summary.md", "trace.json.gz"}
    trace = json.loads(gzip.decompress((profiled / "profile" / "trace.json.gz").read_bytes()))["traceEvents"]
    assert len({event["name"] for event in trace if event["name"].startswith("ProfilerStep#")}) == 15
    page = (profiled / "profile" / "summary.md").read_text()
    facts = dict(re.findall(r"^\| (\S.*?) \| (.*?) \|$", page.split("## ")[0], re.MULTILINE))
    assert float(facts.pop("time of an update, under the profiler").split()[0]) > 0
    known = {"execution": "eager", "replicas": "2 (1 computed together)", "device": "cpu", "threads": "1", "batch": "8"}
    assert (known | {"updates recorded": "15 (from step 15)"}).items() <= facts.items()
    assert re.search(r"^ +aten::\w+ +[\d.]+%", page, re.MULTILINE)


def recorder_of(done: int, plan: Training) -> ProfileRecorder:
    pack: Any = SimpleNamespace(state=SimpleNamespace(step=done), device=torch.device("cpu"))
    return ProfileRecorder(pack, plan, "eager", Path("nowhere"))


def test_a_run_that_ends_too_early_says_so() -> None:
    """As one that diverges in its first updates; nothing is written."""
    recorder = recorder_of(0, Training(steps=100))
    for step in range(8):
        with recorder.record_update(step):
            pass
    assert recorder.lines() == ["Profile:        nothing was recorded: training ended too early"]


@pytest.mark.parametrize(
    ("done", "plan", "recorded"),
    [
        (1030, Training(log_every=1000), range(1050, 1070)),  # a resumed run
        (970, Training(log_every=1000), range(990, 1000)),  # up to the log
        (0, Training(log_every=20, eval_every=40), range(20, 40)),
        (0, Training(steps=3), range(1, 3)),
    ],
)
def test_what_is_recorded(done: int, plan: Training, recorded: range) -> None:
    assert recorder_of(done, plan).steps == recorded
