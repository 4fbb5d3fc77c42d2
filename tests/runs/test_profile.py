"""`dqlab train --profile`: the files, the figures, and the same run to the bit."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT, bindings

from dqlab.runs.profile import UPDATE
from dqlab.training import checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin")]
FEW = ("Training.eval_every=104", "Training.log_every=52", "Training.eval_episodes=1", "DiffusionPolicy.n_timesteps=2")
STEPS = ["--steps", "104", "--seeds", "0", "3", *bindings(*FEW)]


def trace_of(run: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress((run / "profile" / "trace.json.gz").read_bytes()))[
        "traceEvents"
    ]
    return events


def facts_of(run: Path) -> dict[str, str]:
    """The summary's table of facts."""
    page = (run / "profile" / "summary.md").read_text().split("## ")[0]
    return dict(re.findall(r"^\| (\S.*?) \| (.*?) \|$", page, re.MULTILINE))


def results(run: Path, seed: int) -> list[Any]:
    """All that a replica has recorded, but for times."""
    records = [json.loads(line) for line in (run / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"]
        record["metrics"].pop("train/updates_per_second", None)
    return [records, json.loads((run / f"seed-{seed}" / "summary.json").read_text())]


def test_a_profiled_run_and_the_same_without(dqlab: Run, tmp_path: Path) -> None:
    done = dqlab(*QUICK, "--out", "profiled", "--profile", *STEPS)
    assert done.returncode == 0, done.stderr
    assert "USDT" not in done.stderr  # the chatter of the profiler's library
    assert dqlab(*QUICK, "--out", "plain", "-q", *STEPS).returncode == 0
    profiled, plain = tmp_path / "profiled", tmp_path / "plain"
    check_output(done.stdout)
    check_files(profiled)
    assert not (plain / "profile").exists()
    for seed in (0, 3):
        assert results(profiled, seed) == results(plain, seed)
    states = [checkpoint.read_checkpoint(run / "checkpoint.safetensors")[0] for run in (profiled, plain)]
    for group, tensors in states[0].items():
        assert all(torch.equal(value, states[1][group][name]) for name, value in tensors.items())


def check_output(text: str) -> None:
    assert "profiled/profile/summary.md, profiled/profile/trace.json.gz" in text
    assert re.search(
        r"an update \(eager\), [\d,]+ operators an update, [\d.]+% of the time in them, [\d.]+% of peak", text
    )


def check_files(run: Path) -> None:
    assert {path.name for path in (run / "profile").iterdir()} == {"summary.md", "trace.json.gz"}
    events, facts = trace_of(run), facts_of(run)
    updates = [event for event in events if event["name"] == UPDATE]
    assert 1 <= len(updates) <= 50
    assert facts["updates recorded"].startswith(f"{len(updates)} (from step ")
    assert facts["execution"] == "eager"
    assert facts["replicas"] == "2 (1 computed together)"
    assert (facts["device"], facts["threads"], facts["batch"]) == ("cpu", "1", "8")
    assert float(facts["operators"].replace(",", "")) > 100
    shares = [float(facts[name].rstrip("%")) for name in facts if name.startswith("time ") and "%" in facts[name]]
    assert len(shares) == 2
    assert abs(sum(shares) - 100) < 0.11
    for name in ("time, without the profiler", "time, under the profiler", "operations of the matrix products"):
        assert float(facts[name].split()[0]) > 0
    assert re.match(r"[\d.]+% of [\d.]+ [GT]FLOP/s", facts["share of peak"])
    assert "`aten::addmm`" in (run / "profile" / "summary.md").read_text()


def test_too_short_a_run_says_so(dqlab: Run, tmp_path: Path) -> None:
    done = dqlab(*QUICK, "--out", "run", "--profile", "-q", "--steps", "2", *bindings())
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "--profile recorded nothing: only 2 updates were left, and it takes at least 3" in done.stderr
    assert not (tmp_path / "run" / "profile").exists()
