"""Killed with kill -9 at random moments and resumed: bit-identical to a run that was not killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, bindings, isolated
from made_packs import held, records, write_hold
from ray_cluster import until

from dqlab.training import checkpoint


def command(out: Path, *more: str) -> list[str]:
    gin = ROOT / "gin" / "quickstart.gin"
    own = ("Training.checkpoint_seconds=0.0", "Training.early_stop=official")
    sets = bindings(*own, diffusion="Experiment.algorithm=td3_bc" not in more)
    return ["train", "--gin", str(gin), "--out", str(out), "--seeds", "0", "1", "--steps", "60", "-q", *sets, *more]


def run_killed(out: Path, whole: Path, kills: int | tuple[int, ...], *more: str) -> None:
    """Train in `out`, killing the process at records of the run `whole`; it would not do the last update.

    The records are those of so many random ones, or the first ones of these steps.
    """
    steps, dice = [step for step, _ in journal(whole, 0)], random.Random(0)
    env = isolated(out.parent) | held(steps[-1] - 1, out.parent / "never")
    at_random = isinstance(kills, int)
    lines = dice.sample(range(1, steps.index(steps[-1]) + 1), kills) if at_random else map(steps.index, kills)
    for line in sorted(line + (not at_random) for line in lines):
        resume = ["--resume"] if (out / "run.json").exists() else []
        arguments = [*command(out, *resume, *more), *write_hold(out.parent)]
        process = subprocess.Popen([sys.executable, "-m", "dqlab", *arguments], cwd=out.parent, env=env)
        until(lambda line=line: written(out) >= line, 240)  # type: ignore[misc]
        time.sleep(dice.uniform(0.0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL


def written(out: Path) -> int:
    path = out / "seed-0" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def final_state(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return checkpoint.read_checkpoint(out / "checkpoint.safetensors")


def journal(out: Path, seed: int) -> list[Any]:
    return records(out, f"seed-{seed}")


PHASES = ("BDPO.pretrain_steps=20", "BDPO.warmup_steps=15", "BDPO.candidates=2")
PHASES += ("BDPO.critic=twin", "BDPO.selection=softmax_q", "ChainValueNetwork.hidden_dim=16")


@pytest.mark.parametrize(
    ("algorithm", "kills", "own"), [("diffusion_ql", 2, ()), ("td3_bc", 1, ()), ("bdpo", (10, 20, 35, 40), PHASES)]
)
def test_kill_and_resume_is_bit_identical(
    tmp_path: Path, in_process: Callable[..., Any], algorithm: str, kills: int | tuple[int, ...], own: tuple[str, ...]
) -> None:
    """With candidates and without, delayed networks included; evaluations, too.

    Phases end at 20, where an evaluation is, and at 35, where nothing else is.
    """
    whole, killed, more = tmp_path / "whole", tmp_path / "killed", ("--set", f"Experiment.algorithm={algorithm}", *own)
    assert in_process(*command(whole, *more)).returncode == 0
    run_killed(killed, whole, kills, *more)
    assert in_process(*command(killed, "--resume", *more)).returncode == 0
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
