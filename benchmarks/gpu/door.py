"""The product's own door: `dqlab train` on the device, killed, resumed, evaluated, and held against one not killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from gpu.notes import HaltError, Notes, OutOfTime
from gpu.settings import Settings

CHECKPOINT = "checkpoint.safetensors"


def run(settings: Settings, notes: Notes) -> None:
    """What fails here fails for every user: nothing else is measured then. All that is said goes into door.log."""
    try:
        with tempfile.TemporaryDirectory() as place:
            _through(settings, notes, Path(place), settings.out / "door.log")
    except OutOfTime:
        notes.add("stopped", "its time was over")
        raise HaltError from None


def _through(settings: Settings, notes: Notes, place: Path, log: Path) -> None:
    steps, folder = settings.sizes.door, place / "run"
    train = ["train", "--gin", "gin/quickstart.gin", "--device", settings.device, "--steps", f"{steps}"]
    train += ["--set", f"Training.execution={settings.surest_mode}", "Tracking.mlflow=False"]
    train += [f"Training.eval_every={steps // 2}", f"Training.log_every={steps // 10}"]
    train += [f"Training.eval_episodes={settings.sizes.episodes}", "--out"]
    for name, command in {
        "train, killed at its first checkpoint": partial(killed, [*train, str(folder)], folder / CHECKPOINT, log),
        "train --resume": partial(finished, [*train, str(folder), "--resume"], folder, log),
        "eval": partial(finished, ["eval", str(folder), "--device", settings.device], folder, log),
    }.items():
        if notes.attempt(name, command) is None:
            raise HaltError
    notes.attempt("the same without a kill", partial(repeated, [*train, str(place / "again")], folder, place, log))


@contextmanager
def _command(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of dqlab, which ends with this block; what it says goes to the end of the log."""
    command = [sys.executable, "-m", "dqlab", *arguments]
    environment = {**os.environ, "DQLAB_DEBUG": "1"}
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def killed(arguments: list[str], checkpoint: Path, log: Path) -> dict[str, float]:
    """kill -9 as soon as there is a checkpoint; the seconds until then."""
    started = time.time()
    with _command(arguments, log) as process:
        while not checkpoint.exists():
            if process.poll() is not None:
                raise RuntimeError(f"no checkpoint: {_last_line(log)}")
            time.sleep(0.05)
    return {"seconds": time.time() - started}


def finished(arguments: list[str], folder: Path, log: Path) -> dict[str, Any]:
    """A command to its end; what its run's records say then."""
    started = time.time()
    with _command(arguments, log) as process:
        code = process.wait()
    if code:
        raise RuntimeError(f"exit code {code}: {_last_line(log)}")
    lines = [json.loads(line)["metrics"] for line in (folder / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    speed = max(line.get("train/updates_per_second", 0.0) for line in lines)
    facts = json.loads((folder / "run.json").read_text())
    return {
        "seconds": time.time() - started,
        "updates/s": speed,
        "execution": facts["execution"],
        "device": facts["device_name"],
    }


def repeated(arguments: list[str], folder: Path, place: Path, log: Path) -> dict[str, Any]:
    """The largest difference of the final state between the run that was killed and one that was not."""
    again = place / "again"
    finished(arguments, again, log)
    ours, theirs = (load_file(path / CHECKPOINT) for path in (folder, again))
    return {"difference": max(float((ours[name] - theirs[name]).abs().max()) for name in ours)}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1][:300]
