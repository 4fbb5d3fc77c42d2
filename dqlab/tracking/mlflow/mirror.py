"""Who sends a folder to MLflow: while it trains a process of its own, the mirror, and later `dqlab sync`.

Training writes files only. The mirror reads them, remembers in RUN/mlflow.json what has been sent, and sends the
rest; so a dead server never stops a run, and `dqlab sync RUN` sends later what was missed. A grid has one mirror.
"""

from __future__ import annotations

import argparse
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dqlab.errors import RunError, masked, one_line
from dqlab.tracking.folders import LeftOutError, grid_of, read_facts
from dqlab.tracking.mlflow.client import client_environment, mirror_environment, tracking_uri
from dqlab.tracking.mlflow.sync import MEMORY, send_folder
from dqlab.tracking.run_folder import RunFolder

POLL_SECONDS = 5.0
LONGEST_PAUSE = 60.0
PLACE = re.compile(r"0x[0-9a-f]+")
"""Addresses of objects in memory, which differ each time that the same is said."""


class Mirror:
    """A mirror process beside a training process; the pipe to it closes with that process, however it ends.

    Args:
        run: the folder of a run or of a grid.
        experiment: MLflow's experiment.
    """

    def __init__(self, run: Path, experiment: str) -> None:
        command = [sys.executable, "-m", "dqlab.tracking.mlflow.mirror", str(run.resolve()), experiment]
        with (run / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=mirror_environment()
            )

    def close(self, patience: float) -> bool:
        """Let the mirror send the rest; returns whether all was sent within `patience` seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(patience) == 0
        except subprocess.TimeoutExpired:
            self._process.terminate()
            return False


def keep_sending(stop: IO[bytes], send: Callable[[bool], None], say: Callable[[str], None], patience: float) -> bool:
    """Send every few seconds until `stop` is at its end, then once more; pauses grow while sending fails.

    Args:
        stop: a pipe whose end says that training is over.
        send: sends what is new, told whether training is over; raises on failure.
        say: told of failures.
        patience: seconds of last attempts after the end.

    Returns:
        Whether the last attempt succeeded, and left nothing out.
    """
    pause, deadline, said = POLL_SECONDS, float("inf"), ""

    def say_anew(text: str) -> None:
        nonlocal said
        if (plain := PLACE.sub("", text)) != said:
            said = plain
            say(text)

    while True:
        over = bool(select.select([stop], [], [], 0 if deadline < float("inf") else pause)[0])
        if over and deadline == float("inf"):
            deadline = time.monotonic() + patience
        try:
            send(over)
            pause, said = POLL_SECONDS, ""
            if over:
                return True
        except LeftOutError as error:  # to try again at once would not help
            say_anew(f"left out: {error}")
            pause = POLL_SECONDS
            if over:
                return False
        except Exception as error:  # whatever the server or its client does, training's records are safe
            say_anew(f"not sent: {type(error).__name__}: {one_line(error)}")
            pause = min(2 * pause, LONGEST_PAUSE)
            if time.monotonic() > deadline:
                return False
            time.sleep(1.0 if over else 0.0)


def warn_unsent(path: Path) -> None:
    """Say on standard error that MLflow lacks some of a run or of a grid, why, and what to do; quiet or not."""
    log = path / "mlflow.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    why = f" ({said[-1][:300]})" if said else ""
    print(f"dqlab: warning: MLflow does not have all of it yet{why}. Later: dqlab sync {path}", file=sys.stderr)


def sync_to_mlflow(path: Path, to: str = "") -> tuple[Path, str]:
    """Send the rest; a pack's folder stands for its grid.

    Args:
        path: the folder of a run or of a grid.
        to: MLflow's tracking URI; as `tracking_uri` finds it by default.

    Returns:
        What was sent, and the tracking URI, without a password.

    Raises:
        RunError: it is neither a run's nor a grid's folder, or the server cannot be reached.
    """
    path = grid_of(path) or path
    facts = read_facts(path)
    with client_environment(to):
        uri = tracking_uri(path)
        try:
            send_folder(path, uri, facts.get("mlflow_experiment") or path.resolve().name, not RunFolder(path).in_use())
        except LeftOutError as error:
            raise RunError(f"{path} was sent to {masked(uri)}, but for this: {error}") from error
        except Exception as error:
            raise RunError(f"{path} could not be sent to {masked(uri)}: {one_line(error)}") from error
    return path, masked(uri)


def is_tracked(run: Path) -> bool:
    """Whether a run, or the grid of a pack, was to be recorded in MLflow."""
    folder = grid_of(run) or run
    return any((folder / name).exists() for name in (MEMORY, "mlflow.log"))


def main() -> int:
    """Entry point of the mirror process."""
    parser = argparse.ArgumentParser(description="Copies a run's folder into MLflow until standard input ends.")
    parser.add_argument("run", type=Path)
    parser.add_argument("experiment")
    parser.add_argument("--patience", type=float, default=20.0)
    args = parser.parse_args()

    def send(over: bool) -> None:
        send_folder(args.run, tracking_uri(args.run), args.experiment, over)

    def say(text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, flush=True)

    return 0 if keep_sending(sys.stdin.buffer, send, say, args.patience) else 1


if __name__ == "__main__":
    sys.exit(main())
