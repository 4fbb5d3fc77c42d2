"""SIGTERM, SIGHUP and Ctrl-C: a checkpoint, the exit code of the signal. After these and kill -9: as if undisturbed."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, bindings, isolated
from made_packs import check_same, check_same_checkpoint, held, records, wait_until_held, write_hold
from ray_cluster import until

from dqlab.tracking.run_folder import RunFolder
from dqlab.training import checkpoint
from dqlab.training.execution.program import cpp_compiler

GIN = str(ROOT / "gin" / "quickstart.gin")
STEPS = 120
SOON = 40.0
"""Seconds; three on an idle machine."""
FAR = (f"Training.log_every={STEPS}", f"Training.eval_every={STEPS}", "Training.evaluate_untrained=False")
QUICK = ("Training.execution=eager", "DiffusionPolicy.n_timesteps=2", "Training.eval_episodes=1")
HEARD: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


def arguments(out: Path, *more: str, sets: Sequence[str] = (*FAR, *QUICK), diffusion: bool = True) -> list[str]:
    common = ["train", "--gin", GIN, "--steps", str(STEPS), "--out", str(out)]
    return [*common, *more, *bindings(*sets, diffusion=diffusion)]


class Held:
    """A run that waits after so many updates, between two logs, until it is let go on; `before` starts it."""

    def __init__(self, step: int, words: list[str], folder: Path, before: Sequence[str] = (), **streams: Any) -> None:
        self._release = folder / f"at-{step}"
        command = [*before, sys.executable, "-m", "dqlab", *words, *write_hold(folder)]
        env = isolated(folder) | held(step, self._release)
        self.process = subprocess.Popen(command, cwd=folder, env=env, **streams)

    def wait(self) -> None:
        wait_until_held(self._release)

    def ended(self) -> tuple[int, str]:
        """Exit code and last line of the run, which is let go on, and has been asked to stop: it ends soon."""
        self._release.touch()
        started = time.monotonic()
        said = self.process.communicate(timeout=120)[1] or "-"
        assert time.monotonic() - started < SOON
        return self.process.returncode, said.splitlines()[-1]


def signalled(out: Path, step: int, *numbers: int, before: Sequence[str] = ()) -> None:
    """The last of these signals is heeded."""
    resume = ["--resume"] if out.exists() else []
    run = Held(step, arguments(out, *resume), out.parent, before, **HEARD)
    run.wait()
    for number in numbers:
        run.process.send_signal(number)
    code, said = run.ended()
    assert (code, f"--resume --out {out} continues" in said) == (128 + numbers[-1], True), said


LEADER = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.{})
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the session's own, as a terminal window does, whoever may ignore its end."""


def closed_terminal(out: Path, heeded: str, code: int) -> None:
    """The run writes to a terminal, which hangs up (SIGHUP)."""
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    run = Held(60, arguments(out, "--resume"), out.parent, [sys.executable, "-c", LEADER.format(heeded)], **streams)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as lines:
        assert any("ready after" in line for line in lines)
        run.wait()
    assert run.ended()[0] == code


def test_a_terminal_that_has_gone_ends_nothing(tmp_path: Path) -> None:
    """As after `disown`: no signal comes, and nothing can be written any more."""
    closed_terminal(tmp_path / "run", "SIG_IGN", 0)
    assert RunFolder(tmp_path / "run").finished


def test_each_signal_saves_and_a_resume_is_bit_identical(tmp_path: Path, in_process: Callable[..., Any]) -> None:
    """What `nohup` has it ignore stays ignored; where a terminal hangs up, the checkpoint is written all the same."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert in_process(*arguments(whole, "-q")).returncode == 0
    stops: list[Callable[[], None]] = [
        lambda: signalled(stopped, 30, signal.SIGHUP, signal.SIGTERM, before=["nohup"]),
        lambda: closed_terminal(stopped, "SIG_DFL", 128 + signal.SIGHUP),
        lambda: signalled(stopped, 90, signal.SIGINT),
    ]
    steps = [0]
    for stop in stops:
        stop()
        facts = RunFolder(stopped).facts()
        assert (facts["state"], facts["reason"][:15]) == ("interrupted", "stopped at step")
        steps.append(checkpoint.read_checkpoint(stopped / "checkpoint.safetensors")[1]["step"])
    assert steps == sorted({*steps}), "each went on"
    assert steps[-1] < STEPS
    assert in_process(*arguments(stopped, "-q", "--resume")).returncode == 0
    check_same_checkpoint(stopped / "checkpoint.safetensors", whole / "checkpoint.safetensors")
    check_same(stopped, "seed-0", whole)
    assert RunFolder(stopped).facts()["state"] == "finished"


OFTEN = ("Training.checkpoint_seconds=0.0", "Training.early_stop=official")
PHASES = ("BDPO.pretrain_steps=20", "BDPO.warmup_steps=15", "BDPO.candidates=2")
PHASES += ("BDPO.critic=twin", "BDPO.selection=softmax_q", "ChainValueNetwork.hidden_dim=16")


@pytest.mark.parametrize(
    ("algorithm", "kills", "own"),
    [("diffusion_ql", (10, 30), ()), ("td3_bc", (30,), ()), ("bdpo", (10, 20, 35, 40), PHASES)],
)
def test_kill_and_resume_is_bit_identical(
    tmp_path: Path, in_process: Callable[..., Any], algorithm: str, kills: tuple[int, ...], own: tuple[str, ...]
) -> None:
    """Killed soon after a record of these steps. With candidates and without, delayed networks included.

    Phases end at 20, where an evaluation is, and at 35, where nothing else is.
    """
    sets, diffusion = (*OFTEN, f"Experiment.algorithm={algorithm}", *own), algorithm != "td3_bc"
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def words(out: Path, *more: str) -> list[str]:
        return arguments(out, "--seeds", "0", "1", "--steps", "60", "-q", *more, sets=sets, diffusion=diffusion)

    done = in_process(*(word for word in words(whole) if word != "-q"))
    assert done.returncode == 0
    assert ("updates 21 to 35 train: critic" in done.stdout) == (algorithm == "bdpo"), "phases are told"
    assert ("step 20: the next phase" in done.stdout) == (algorithm == "bdpo")
    steps, dice = [step for step, _ in records(whole, "seed-0")], random.Random(0)
    journal = killed / "seed-0" / "metrics.jsonl"
    for kill in kills:
        run = Held(steps[-1] - 1, words(killed, *(["--resume"] if kill != kills[0] else [])), tmp_path)
        lines = steps.index(kill) + 1
        until(lambda lines=lines: journal.exists() and journal.read_text().count("\n") >= lines, 240)  # type: ignore[misc]
        time.sleep(dice.uniform(0.0, 0.3))
        run.process.kill()
        assert run.process.wait() == -signal.SIGKILL
    assert in_process(*words(killed, "--resume")).returncode == 0
    check_same_checkpoint(killed / "checkpoint.safetensors", whole / "checkpoint.safetensors")
    for name in ("seed-0", "seed-1"):
        check_same(killed, name, whole)
        for file in ("best_score_online.txt", "best_score_offline.txt"):
            assert (killed / name / file).read_text() == (whole / name / file).read_text()
    assert not list(killed.rglob("*.tmp")), "half-written files are left"


SLOW = """
import os, pathlib, time
from dqlab.envs.backend import GymnasiumEnvironments
step = GymnasiumEnvironments.step

def step_slowly(*given):
    pathlib.Path("stepped").touch()
    time.sleep(float(os.environ["SLOW"]))
    return step(*given)

GymnasiumEnvironments.step = step_slowly
"""


@pytest.mark.parametrize("seconds", [0.1, 600.0])
def test_in_an_evaluation(seconds: float, tmp_path: Path) -> None:
    """It ends after the step under way; where that lasts, as it is, with the checkpoint that precedes evaluations."""
    out = tmp_path / "run"
    (tmp_path / "slow.py").write_text(SLOW)
    words = arguments(out, "-q", "--plugin", "slow", sets=(*FAR, *QUICK, "Training.eval_every=5"))
    env = {**isolated(tmp_path), "SLOW": str(seconds)}
    process = subprocess.Popen([sys.executable, "-m", "dqlab", *words], cwd=tmp_path, env=env)
    until(lambda: (tmp_path / "stepped").exists() or process.poll() is not None)
    sent = time.monotonic()
    process.terminate()
    assert process.wait(timeout=120) == 143
    assert time.monotonic() - sent < SOON
    record: dict[str, Any] = checkpoint.read_checkpoint(out / "checkpoint.safetensors")[1]
    assert (record["step"], record["evaluated_at"]) == (5, -1)
    if seconds < 1:
        assert json.loads((out / "run.json").read_text())["state"] == "interrupted"


COMPILED = ("Experiment.algorithm=bc", "Training.evaluate_untrained=True", "Training.execution=compile")
COMPILED += ("load_dataset.sources=('embedded',)", "Tracking.mlflow=False", "DiffusionPolicy.n_timesteps=2")
COMPILED += tuple(f"MLPDenoiser.{name}" for name in ("hidden_dim=16", "depth=1", "time_dim=1", "activation=relu"))
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
    words = ["-m", "dqlab", "train", "--gin", GIN, "--out", str(tmp_path / "run"), "--set", *COMPILED]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=env, start_new_session=True, **HEARD)
    until(lambda: (tmp_path / "compiles").exists() or process.poll() is not None, 240)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[1].splitlines()[-1]
    assert (process.returncode, "SIGTERM: interrupted; the last checkpoint" in said) == (143, True), said


def test_what_killed_writers_leave_is_swept(tmp_path: Path) -> None:
    """dqlab's temporary files, and safetensors' own; nothing of the user's."""
    left = [".checkpoint.safetensors.123.tmp", ".tmpQ3xYz9", "seed-0/checkpoints/.tmpabc123"]
    kept = [".tmpfile", "seed-0/.tmp-notes", "tmpQ3xYz9"]
    (tmp_path / "seed-0" / "checkpoints").mkdir(parents=True)
    for name in (*left, *kept):
        (tmp_path / name).touch()
    RunFolder(tmp_path).lock()
    assert [name for name in (*left, *kept) if (tmp_path / name).exists()] == kept
