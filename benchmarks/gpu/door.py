"""The product's own door: `dqlab train` on the device, killed once, resumed once, evaluated once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from gpu.notes import HaltError, Notes
from gpu.settings import Settings

PATIENCE = 120.0
"""Seconds that a command may take."""


def run(settings: Settings, notes: Notes) -> None:
    """What fails here fails for every user: nothing else is measured then."""
    folder = (settings.out / "door").resolve()
    steps = settings.sizes.door
    train = ["train", "--gin", "gin/quickstart.gin", "--device", settings.device, "--steps", f"{steps}"]
    train += ["--out", str(folder), "--set", f"Training.execution={settings.surest_mode}", "Tracking.mlflow=False"]
    train += [f"Training.eval_every={steps // 2}", f"Training.log_every={steps // 10}"]
    for name, command in {
        "train, killed at its first checkpoint": partial(killed, train, folder / "checkpoint.safetensors"),
        "train --resume": partial(finished, [*train, "--resume"], folder),
        "eval": partial(finished, ["eval", str(folder), "--device", settings.device], folder),
    }.items():
        if notes.attempt(name, command) is None:
            raise HaltError


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dqlab.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed(arguments: list[str], checkpoint: Path) -> dict[str, float]:
    """kill -9 as soon as there is a checkpoint; the seconds until then."""
    started, process = time.time(), _start(arguments)
    while not checkpoint.exists():
        if process.poll() is not None or time.time() > started + PATIENCE:
            process.kill()
            raise RuntimeError(f"no checkpoint: {_last_line(process.communicate()[0])}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return {"seconds": time.time() - started}


def finished(arguments: list[str], folder: Path) -> dict[str, Any]:
    """A command to its end; what its run's records say then."""
    started, process = time.time(), _start(arguments)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise RuntimeError(f"not done within {PATIENCE:.0f} s") from error
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {_last_line(output)}")
    lines = [json.loads(line)["metrics"] for line in (folder / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    speed = max(line.get("train/updates_per_second", 0.0) for line in lines)
    facts = json.loads((folder / "run.json").read_text())
    return {
        "seconds": time.time() - started,
        "updates/s": speed,
        "execution": facts["execution"],
        "device": facts["device_name"],
    }


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[:300]
