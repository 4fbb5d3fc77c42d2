"""Who sends a folder to MLflow: while it trains a process of its own, the mirror, and later `dqlab sync`.

Training writes files only. The mirror reads them, remembers in RUN/mlflow.json what has been sent, and sends the
rest; so a dead server never stops a run, and `dqlab sync RUN` sends later what was missed. A grid has one mirror.
"""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from pathlib import Path

from dqlab.errors import RunError, masked, one_line
from dqlab.tracking.folders import LeftOutError, grid_of, read_facts
from dqlab.tracking.mlflow.client import client_environment, mirror_environment, tracking_uri
from dqlab.tracking.mlflow.sync import MEMORY, send_folder
from dqlab.tracking.run_folder import RunFolder

POLL_SECONDS = 5.0
LONGEST_PAUSE, PATIENCE = 60.0, 20.0
PLACE = re.compile(r"0x[0-9a-f]+")  # addresses of objects in memory, which differ each time that the same is said


class Mirror:
    """A mirror process beside one that trains a run or a grid; the pipe to it closes with that, however it ends."""

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


def keep_sending(run: Path, experiment: str) -> bool:
    """Send until standard input ends, and then, for PATIENCE seconds, until all is sent; returns whether it is."""
    pause, deadline, said = POLL_SECONDS, float("inf"), ""
    while True:
        over = bool(select.select([sys.stdin], [], [], 0 if deadline < float("inf") else pause)[0])
        deadline = min(deadline, time.monotonic() + PATIENCE) if over else deadline
        problem, retry = "", False
        try:
            send_folder(run, tracking_uri(run), experiment, over)
        except LeftOutError as error:  # to try again at once would not help
            problem = f"left out: {error}"
        except Exception as error:  # whatever the server or its client does, training's records are safe
            problem, retry = f"not sent: {type(error).__name__}: {one_line(error)}", True
        if problem and PLACE.sub("", problem) != said:
            print(time.strftime("%H:%M:%S"), problem, flush=True)
        if over and (not retry or time.monotonic() > deadline):
            return not problem
        said, pause = PLACE.sub("", problem), min(2 * pause, LONGEST_PAUSE) if retry else POLL_SECONDS
        time.sleep(1.0 if over else 0.0)


def warn_unsent(path: Path) -> None:
    """Say on standard error that MLflow lacks some of a run or of a grid, why, and what to do; quiet or not."""
    log = path / "mlflow.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    why = f" ({said[-1][:300]})" if said else ""
    print(f"dqlab: warning: MLflow does not have all of it yet{why}. Later: dqlab sync {path}", file=sys.stderr)


def sync_to_mlflow(path: Path, to: str = "") -> tuple[Path, str]:
    """Send the rest of a run or a grid, for which a pack stands; a RunError where that cannot be.

    `to` is a tracking URI, by default `tracking_uri`'s. Returns what was sent, and the URI without a password.
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


if __name__ == "__main__":
    sys.exit(0 if keep_sending(Path(sys.argv[1]), sys.argv[2]) else 1)
