"""Killed with kill -9 at random moments and resumed: bit-identical to a run that was not killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, bindings, isolated

from dqlab.training import checkpoint

STEPS = 180


def command(out: Path, *more: str) -> list[str]:
    start = [
        sys.executable,
        "-m",
        "dqlab.cli",
        "train",
        "--gin",
        str(ROOT / "gin" / "quickstart.gin"),
        "--out",
        str(out),
    ]
    own = ("Training.checkpoint_seconds=0.0", "Training.eval_every=60", "Training.early_stop=official")
    sets = bindings(*own, diffusion="Experiment.algorithm=td3_bc" not in more)
    return [*start, "--seeds", "0", "1", "--steps", str(STEPS), "-q", *sets, *more]


def run_killed(out: Path, seconds: float, kills: int, *more: str) -> int:
    """Train in `out`, killing the process `kills` times; returns how many kills hit a process at work.

    A whole run takes that many seconds here; each part at most a quarter of them.
    """
    dice, hit = random.Random(0), 0
    for _ in range(kills):
        resume = ["--resume"] if (out / "run.json").exists() else []
        process = subprocess.Popen(command(out, *resume, *more), cwd=out.parent, env=isolated(out.parent))
        while process.poll() is None and not (out / "seed-0" / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, seconds / 4))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            hit += 1
        process.wait()
        if json.loads((out / "run.json").read_text())["state"] == "finished":
            return hit
    subprocess.run(command(out, "--resume", *more), cwd=out.parent, env=isolated(out.parent), check=True, timeout=300)
    return hit


def final_state(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return checkpoint.read_checkpoint(out / "checkpoint.safetensors")


def journal(out: Path, seed: int) -> list[Any]:
    """The records, without what a clock says."""
    records = [json.loads(line) for line in (out / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
    return [
        (r["step"], {name: value for name, value in r["metrics"].items() if "updates_per_second" not in name})
        for r in records
    ]


@pytest.mark.parametrize(("algorithm", "kills"), [("diffusion_ql", 3), ("td3_bc", 1)])
def test_kill_and_resume_is_bit_identical(tmp_path: Path, algorithm: str, kills: int) -> None:
    """With candidates and without, delayed networks included; evaluations, too."""
    whole, killed, more = tmp_path / "whole", tmp_path / "killed", ("--set", f"Experiment.algorithm={algorithm}")
    started = time.monotonic()
    subprocess.run(command(whole, *more), cwd=tmp_path, env=isolated(tmp_path), check=True, timeout=300)
    assert run_killed(killed, time.monotonic() - started, kills, *more) >= (kills + 1) // 2
    (tensors, record), (expected, expected_record) = final_state(killed), final_state(whole)
    assert record == expected_record
    assert record["step"] > 0
    for group, named in expected.items():
        assert named.keys() == tensors[group].keys()
        for name, value in named.items():
            assert torch.equal(tensors[group][name], value), f"{group}/{name}"
    for seed in (0, 1):
        assert journal(killed, seed) == journal(whole, seed)
        for name in ("summary.json", "best_score_online.txt", "best_score_offline.txt"):
            assert (killed / f"seed-{seed}" / name).read_text() == (whole / f"seed-{seed}" / name).read_text()
        weights = [sorted((out / f"seed-{seed}" / "checkpoints").iterdir()) for out in (whole, killed)]
        assert [path.name for path in weights[0]] == [path.name for path in weights[1]]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*weights, strict=True))
    assert not list(killed.rglob("*.tmp")), "half-written files are left"


@pytest.mark.parametrize("changed", ["DiffusionQL.eta=0.5", "Training.batch_size=16"])
def test_a_resume_that_differs_says_what_differs(tmp_path: Path, changed: str) -> None:
    out = tmp_path / "run"
    subprocess.run(command(out, "--steps", "20"), cwd=tmp_path, env=isolated(tmp_path), check=True, timeout=300)
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, "state": "running"}))
    before = (out / "checkpoint.safetensors").read_bytes()
    again = subprocess.run(
        command(out, "--steps", "20", "--resume", "--set", changed),
        cwd=tmp_path,
        env=isolated(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    name, _, value = changed.partition("=")
    assert again.returncode == 2
    assert f"{name}: " in again.stderr
    assert f"{value} now" in again.stderr
    assert (out / "checkpoint.safetensors").read_bytes() == before
