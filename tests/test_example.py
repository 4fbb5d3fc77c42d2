"""The algorithm in one file, run as its first lines say: trained on a D4RL file, its weights evaluated by dqlab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diffusion_ql as plain
import numpy as np
import torch
from conftest import ROOT

from dqlab.data import load_dataset
from dqlab.envs import tasks

TASK = "walker2d-medium-expert-v2"


def test_trained_and_evaluated(
    d4rl_file: Callable[..., Path], in_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "examples" / "diffusion_ql.py"), str(d4rl_file()), "--out", "plain-run"]
    done = subprocess.run(
        [*command, "--steps", "3", "--batch", "8"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "3 of 3: critic" in done.stdout
    evaluated = in_process("eval", "--official", "plain-run", "--task", TASK, "--episodes", "1")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "score" in evaluated.stdout.lower()


def test_its_transitions_are_dqlabs(d4rl_file: Callable[..., Path]) -> None:
    """With and without `timeouts` in the file."""
    for changes in ({}, {"timeouts": None}):
        path = d4rl_file(rows=60, **changes)
        ours = load_dataset(tasks.get(TASK), sources=(f"file:{path}",))
        theirs = plain.read_d4rl(path)
        for name, values in theirs.items():
            assert torch.equal(values, getattr(ours, name)), name


def test_episodes_without_timeouts_end_at_the_limit(d4rl_file: Callable[..., Path]) -> None:
    """Every fifth row is the last of an episode cut at five, the twentieth too, where it ended by itself."""
    path = d4rl_file(rows=40, timeouts=None, terminals=np.arange(40) == 19)
    kept = plain.read_d4rl(path, episode_limit=5)
    assert len(kept["reward"]) == 39 - 7


def test_acting() -> None:
    settings = plain.Settings(hidden=8, n=2)
    action = plain.DiffusionQL(plain.Actor(3, 2, settings), plain.Critic(3, 2, 8), settings).act(torch.zeros(3))
    assert action.shape == (2,)
    assert float(action.abs().max()) <= 1
