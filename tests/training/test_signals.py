"""SIGTERM, SIGHUP and Ctrl-C: a checkpoint, the exit code of the signal, and a resume that is bit-identical."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, bindings, isolated
from made_packs import held, records, wait_until_held, write_hold
from ray_cluster import until

from dqlab.tracking.run_folder import RunFolder
from dqlab.training import checkpoint
from dqlab.training.execution.program import cpp_compiler

STEPS = 120
SOON = 40.0
"""Seconds; three on an idle machine."""
FAR = (f"Training.log_every={STEPS}", f"Training.eval_every={STEPS}", "Training.evaluate_untrained=False")
QUICK = ("Training.execution=eager", "DiffusionPolicy.n_timesteps=2", "Training.eval_episodes=1")


def arguments(out: Path, *more: str, sets: Sequence[str] = ()) -> list[str]:
    gin = str(ROOT / "gin" / "quickstart.gin")
    return ["train", "--gin", gin, "--out", str(out), "--steps", str(STEPS), *more, *bindings(*FAR, *QUICK, *sets)]


def command(out: Path, *more: str, sets: Sequence[str] = ()) -> list[str]:
    return [sys.executable, "-m", "dqlab", *arguments(out, *write_hold(out.parent), *more, sets=sets)]


def until_held(out: Path, step: int, before: Sequence[str] = (), *more: str, **streams: Any) -> Held:
    """A run that is held between two logs, after so many updates; `before` starts it."""
    release = out.parent / f"at-{step}"
    env = isolated(out.parent) | held(step, release)
    process = subprocess.Popen([*before, *command(out, *more)], cwd=out.parent, env=env, **streams)
    return Held(process, release)


@dataclass
class Held:
    """A run, and the file that lets it go on."""

    process: subprocess.Popen[str]
    release: Path

    def ended(self) -> tuple[int, str]:
        """Exit code and last line of the run, which is let go on, and has been asked to stop: it ends soon."""
        self.release.touch()
        started = time.monotonic()
        said = self.process.communicate(timeout=120)[1] or "-"
        assert time.monotonic() - started < SOON
        return self.process.returncode, said.splitlines()[-1]


def saved_step(out: Path) -> int:
    return int(checkpoint.read_checkpoint(out / "checkpoint.safetensors")[1]["step"])


def ignored_then_sigterm(out: Path) -> None:
    """nohup dqlab train ...: SIGHUP is ignored, and stays so."""
    run = until_held(out, 30, ["nohup"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until_held(run.release)
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.process.terminate()
    code, said = run.ended()
    assert (code, f"--resume --out {out} continues" in said) == (143, True), said


def closed_terminal(out: Path, heeded: str = "SIG_DFL") -> int:
    """The run writes to a terminal, which hangs up (SIGHUP); its exit code."""
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    run = until_held(out, 60, [sys.executable, "-c", LEADER.format(heeded)], "--resume", **streams)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as lines:
        assert any("ready after" in line for line in lines)
        wait_until_held(run.release)
    return run.ended()[0]


def hung_up(out: Path) -> None:
    """The checkpoint is written all the same."""
    assert closed_terminal(out) == 129


def test_a_terminal_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    """As after `disown`: no signal comes, and nothing can be written any more."""
    assert closed_terminal(tmp_path / "run", "SIG_IGN") == 0
    assert RunFolder(tmp_path / "run").finished


def interrupted(out: Path) -> None:
    """Ctrl-C."""
    run = until_held(out, 90, (), "--resume", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until_held(run.release)
    run.process.send_signal(signal.SIGINT)
    code, said = run.ended()
    assert (code, f"--resume --out {out} continues" in said) == (130, True), said


LEADER = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.{})
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the session's own, as a terminal window does, whoever may ignore its end."""


def test_each_signal_saves_and_a_resume_is_bit_identical(tmp_path: Path, in_process: Callable[..., Any]) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert in_process(*arguments(whole, "-q")).returncode == 0
    steps = [0]
    for stop in (ignored_then_sigterm, hung_up, interrupted):
        stop(stopped)
        facts = RunFolder(stopped).facts()
        assert (facts["state"], facts["reason"][:15]) == ("interrupted", "stopped at step")
        steps.append(saved_step(stopped))
    assert steps == sorted({*steps}), "each went on"
    assert steps[-1] < STEPS
    assert in_process(*arguments(stopped, "-q", "--resume")).returncode == 0
    (tensors, record), (expected, expected_record) = (
        checkpoint.read_checkpoint(out / "checkpoint.safetensors") for out in (stopped, whole)
    )
    assert record == expected_record
    assert all(torch.equal(tensors[g][n], value) for g, named in expected.items() for n, value in named.items())
    assert records(stopped, "seed-0") == records(whole, "seed-0")
    assert RunFolder(stopped).facts()["state"] == "finished"


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


SHORT = [f"MLPDenoiser.{name}" for name in ("hidden_dim=16", "depth=1", "time_dim=1", "activation=relu")]
HANGING = """#!/bin/sh
[ -e {folder}/run/checkpoint.safetensors ] || exec {compiler} "$@"
touch {folder}/compiles
exec sleep 600
"""


def test_while_it_compiles_what_acts(tmp_path: Path) -> None:
    """A terminal ends the compiler, too: that is no fault of the program's."""
    (compiler := tmp_path / "g++").write_text(HANGING.format(folder=tmp_path, compiler=cpp_compiler()))
    compiler.chmod(0o755)
    env = isolated(tmp_path) | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    few = ["Experiment.algorithm=bc", "Training.evaluate_untrained=True", "Training.execution=compile"]
    few += ["load_dataset.sources=('embedded',)", "DiffusionPolicy.n_timesteps=2", *SHORT]
    words = [sys.executable, "-m", "dqlab", "train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--set", *few]
    words += ["Tracking.mlflow=False", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(words, cwd=tmp_path, env=env, text=True, **streams)
    until(lambda: (tmp_path / "compiles").exists() or process.poll() is not None, 240)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[1].splitlines()[-1]
    assert (process.returncode, "SIGTERM: interrupted; the last checkpoint" in said) == (143, True), said


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
