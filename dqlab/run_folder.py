"""A run's folder: its layout, its lock, and its journals.

RUN/config.gin              the operative configuration: reproduces the run
RUN/run.json                facts of the run: task, data, versions, state
RUN/checkpoint.safetensors  the full training state, for --resume
RUN/profile/                with --profile: summary.md, trace.json.gz
RUN/seed-<n>/               one replica: metrics.jsonl, summary.json, curve.png, best_score_*.txt, checkpoints/
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from dqlab.errors import RunError
from dqlab.files import write_text

LOCK = "run.lock"


class Journal:
    """An append-only file of JSON records, one a line; on a resume it is cut back to what the checkpoint knew."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_text().splitlines(keepends=True)[:keep] if path.exists() else []
        if len(kept) < keep:
            raise RunError(
                f"{path} has {len(kept)} records, the checkpoint knows of {keep}: the run folder is damaged."
            )
        write_text(path, "".join(kept))
        self.count = keep
        self._file = path.open("a")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, at once."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"Cannot write {self.path}: {error.strerror}. Free some space; --resume continues the run."
            ) from error
        self.count += 1

    def sync(self) -> None:
        """Make what is written survive a power cut; a checkpoint that counts these records may follow."""
        os.fsync(self._file.fileno())


class RunFolder:
    """The files of one run, locked while a process trains in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @property
    def config(self) -> Path:
        """The operative configuration."""
        return self.path / "config.gin"

    @property
    def checkpoint(self) -> Path:
        """The full training state."""
        return self.path / "checkpoint.safetensors"

    @property
    def profile(self) -> Path:
        """The folder of a profile."""
        return self.path / "profile"

    def replica(self, seed: int) -> Path:
        """One replica's folder."""
        return self.path / f"seed-{seed}"

    def snapshot(self, seed: int, step: int) -> Path:
        """One replica's weights at one evaluation."""
        return self.replica(seed) / "checkpoints" / f"step-{step:09d}.safetensors"

    def check(self, resume: bool) -> None:
        """See that a run can be started, or resumed, here; touches nothing.

        Raises:
            RunError: the folder is in use, holds something else, or a run that is not to be resumed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a folder. Choose another --out.")
        if self.in_use():
            raise RunError(f"{self.path} is in use by another run{self._owner()}. Choose another --out.")
        if not (self.path / "run.json").exists():
            if self.foreign():
                raise RunError(f"{self.path} is not empty and holds no run. Choose another --out.")
        elif not resume:
            raise RunError(f"{self.path} already holds a run. Use --resume to continue it, or choose another --out.")
        elif self.facts().get("state") == "finished":
            raise RunError(f"The run in {self.path} has finished: there is nothing to resume. See dqlab eval.")

    def lock(self) -> None:
        """Claim the folder for this process; the claim ends with the process, however it ends.

        Raises:
            RunError: another process has it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("a+")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{self.path} is in use by another run{self._owner()}. Choose another --out.") from error
        except OSError as error:
            raise RunError(f"Cannot write to {self.path}: {error.strerror}. Choose another --out.") from error
        for leftover in self.path.rglob(".*.tmp"):  # of a process killed while writing
            leftover.unlink(missing_ok=True)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def in_use(self) -> bool:
        """Whether some process trains in the folder now."""
        if not (self.path / LOCK).exists():
            return False
        with (self.path / LOCK).open("a") as probe:
            try:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def foreign(self) -> list[str]:
        """Names in the folder of something that is not a run."""
        return [item.name for item in self.path.iterdir() if item.name != LOCK] if self.path.exists() else []

    def _owner(self) -> str:
        try:
            return f" (process {int((self.path / LOCK).read_text())})"
        except (OSError, ValueError):
            return ""

    def facts(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            RunError: this is not a run's folder.
        """
        try:
            facts: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} is not the folder of a dqlab run (no readable run.json).") from error
        return facts

    def write_facts(self, **facts: Any) -> None:
        """Add to run.json."""
        known = self.facts() if (self.path / "run.json").exists() else {}
        write_text(self.path / "run.json", json.dumps({**known, **facts}, indent=1, default=str))

    def summary(self, seed: int) -> dict[str, Any]:
        """A finished replica's summary.

        Raises:
            RunError: the replica has not finished.
        """
        try:
            summary: dict[str, Any] = json.loads((self.replica(seed) / "summary.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.replica(seed)} has no summary yet: the run has not finished. Continue it (dqlab train --resume "
                f"--out {self.path}), or name a file of its checkpoints/."
            ) from error
        return summary
