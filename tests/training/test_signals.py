"""SIGTERM, SIGHUP and Ctrl-C: a checkpoint, the exit code of the signal, and a resume that is bit-identical."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, bindings, isolated
from made_packs import held, records, wait_until_held, write_hold

from dqlab.tracking.run_folder import RunFolder
from dqlab.training import checkpoint

STEPS = 120
SOON = 40.0
"""Seconds; three on an idle machine."""
FAR = (f"Training.log_every={STEPS}", f"Training.eval_every={STEPS}", "Training.evaluate_untrained=False")
QUICK = ("Training.execution=eager", "DiffusionPolicy.n_timesteps=2", "Training.eval_episodes=1")


def command(out: Path, *more: str, sets: Sequence[str] = ()) -> list[str]:
    gin = str(ROOT / "gin" / "quickstart.gin")
    start = [sys.executable, "-m", "dqlab.cli", "train", "--gin", gin, "--out", str(out), "--steps", str(STEPS)]
    return [*start, *write_hold(out.parent), *more, *bindings(*FAR, *QUICK, *sets)]


def signalled(out: Path, number: int, step: int, *more: str) -> tuple[int, str]:
    """Exit code and last line of a run that gets a signal between two logs, after so many updates; it ends soon."""
    release = out.parent / f"signal-{number}"
    process = subprocess.Popen(
        command(out, *more),
        cwd=out.parent,
        env=isolated(out.parent) | held(step, release),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_held(release)
    sent = time.monotonic()
    process.send_signal(number)
    release.touch()
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - sent < SOON
    return process.returncode, said.splitlines()[-1]


def test_each_signal_saves_and_a_resume_is_bit_identical(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(command(whole, "-q"), cwd=tmp_path, env=isolated(tmp_path), check=True, timeout=300)
    steps = [0]
    for number, code, step, resume in (
        (signal.SIGTERM, 143, 30, ()),
        (signal.SIGHUP, 129, 60, ("--resume",)),
        (2, 130, 90, ("--resume",)),
    ):
        ended, said = signalled(stopped, number, step, *resume)
        assert ended == code, said
        assert f"--resume --out {stopped} continues" in said
        facts = RunFolder(stopped).facts()
        assert (facts["state"], facts["reason"][:15]) == ("interrupted", "stopped at step")
        steps.append(checkpoint.read_checkpoint(stopped / "checkpoint.safetensors")[1]["step"])
    assert steps == sorted({*steps}), "each went on"
    assert steps[-1] < STEPS
    subprocess.run(command(stopped, "-q", "--resume"), cwd=tmp_path, env=isolated(tmp_path), check=True, timeout=300)
    (tensors, record), (expected, expected_record) = (
        checkpoint.read_checkpoint(out / "checkpoint.safetensors") for out in (stopped, whole)
    )
    assert record == expected_record
    assert all(torch.equal(tensors[g][n], value) for g, named in expected.items() for n, value in named.items())
    assert records(stopped, "seed-0") == records(whole, "seed-0")
    assert RunFolder(stopped).facts()["state"] == "finished"


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The run writes to a terminal, which hangs up: the checkpoint is written all the same."""
    out, (ours, theirs) = tmp_path / "run", pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, *command(out)],
        cwd=tmp_path,
        env=isolated(tmp_path) | held(30, tmp_path / "closed"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as lines:
        assert any("ready after" in line for line in lines)
        wait_until_held(tmp_path / "closed")
    (tmp_path / "closed").touch()
    assert process.wait(timeout=120) == 129
    assert RunFolder(out).facts()["state"] == "interrupted"
    assert checkpoint.read_checkpoint(out / "checkpoint.safetensors")[1]["step"] > 0


LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the session's own, as a terminal window does."""


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """nohup dqlab train ..."""
    out = tmp_path / "run"
    env = isolated(tmp_path) | held(30, tmp_path / "go")
    process = subprocess.Popen(["nohup", *command(out, "-q")], cwd=tmp_path, env=env)
    wait_until_held(tmp_path / "go")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    (tmp_path / "go").touch()
    assert process.wait(timeout=120) == 143


SLOW = """
import gymnasium, numpy, os, pathlib, time

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (17,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,))

    def reset(self, *, seed=None, options=None):
        return numpy.zeros(17), {}

    def step(self, action):
        pathlib.Path("stepped").touch()
        time.sleep(float(os.environ["SLOW"]))
        return numpy.zeros(17), 0.0, False, False, {}

gymnasium.register("Slow-v0", Slow, max_episode_steps=1000)
"""


@pytest.mark.parametrize("seconds", [0.1, 600.0])
def test_in_an_evaluation(seconds: float, tmp_path: Path) -> None:
    """It ends after the step under way; where that lasts, as it is, with the checkpoint that precedes evaluations."""
    out = tmp_path / "run"
    (tmp_path / "slow.py").write_text(SLOW)
    task = ["Experiment.task=@gymnasium_task()", "gymnasium_task.env_id='slow:Slow-v0'", "gymnasium_task.name='slow'"]
    task += [
        "gymnasium_task.min_score=0.0",
        "gymnasium_task.max_score=1.0",
        "Training.eval_every=5",
        "Training.evaluate_untrained=False",
    ]
    data = ROOT / "dqlab" / "data" / "embedded" / "walker2d-medium-expert-mini.hdf5"
    where = [f"load_dataset.sources=('file:{data}',)"]
    process = subprocess.Popen(
        command(out, "-q", sets=[*task, *where]),
        cwd=tmp_path,
        env={**isolated(tmp_path), "SLOW": str(seconds), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    while not (tmp_path / "stepped").exists():
        assert process.poll() is None
        time.sleep(0.05)
    sent = time.monotonic()
    process.terminate()
    assert process.wait(timeout=120) == 143
    assert time.monotonic() - sent < SOON
    record: dict[str, Any] = checkpoint.read_checkpoint(out / "checkpoint.safetensors")[1]
    assert (record["step"], record["evaluated_at"]) == (5, -1)
    if seconds < 1:
        assert json.loads((out / "run.json").read_text())["state"] == "interrupted"


def test_what_killed_writers_leave_is_swept(tmp_path: Path) -> None:
    """dqlab's temporary files, and safetensors' own; nothing of the user's."""
    left = [".checkpoint.safetensors.123.tmp", ".tmpQ3xYz9", "seed-0/checkpoints/.tmpabc123"]
    kept = [".tmpfile", "seed-0/.tmp-notes", "tmpQ3xYz9"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    RunFolder(tmp_path).lock()
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
