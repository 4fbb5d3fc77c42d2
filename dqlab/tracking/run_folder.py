"""A run's folder: its layout, its lock, and its journals.

RUN/config.gin              the operative configuration: reproduces the run
RUN/run.json                facts of the run: task, data, versions, state
RUN/checkpoint.safetensors  the full training state, for --resume
RUN/profile/                with --profile: summary.md, trace.json.gz
RUN/<replica>/              one replica, seed-<n> by default: config.gin (it alone), metrics.jsonl, checkpoints/;
                            summary.json, curve.png, best_score_*.txt; or failure.json
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dqlab.config.identity import Replica, replicas_of
from dqlab.errors import RunError
from dqlab.files import atomic_path, open_lock, write_text

if TYPE_CHECKING:
    from dqlab.tracking.records import FailureRecord, RunRecord, SummaryRecord
LOCK = "run.lock"
FAILURE = "failure.json"
EVALUATION = "evaluation"  # the kind of a failure that a resume may mend: the last evaluation gave no score
PACK, LOG = "pack.gin", "worker.log"
INSPECTION = "inspection.json"
LEFTOVERS = (".*.tmp", f".tmp{6 * '[A-Za-z0-9]'}")
"""What a process that is killed while writing leaves: temporary files of dqlab's, and of safetensors'."""
BEFORE_A_RUN = ("*.lock", *LEFTOVERS, PACK, LOG)
"""What may lie in a folder before a run starts there: locks, what a process killed while writing has left, a pack."""


class Journal:
    """An append-only file of JSON records, one a line; on a resume it is cut back to what the checkpoint knew."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = b""
        if keep:
            from dqlab.tracking.records import read_journal

            if (known := len(read_journal(path, stop=keep))) < keep:
                said = f"{path} has {known} records, the checkpoint knows of {keep}"
                raise RunError(f"{said}: the run folder is damaged.")
            kept = b"".join(path.read_bytes().splitlines(keepends=True)[:keep])
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept)
        self.count = keep
        self._file = path.open("a")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, at once."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            advice = "Free some space; --resume continues the run."
            raise RunError(f"Cannot write {self.path}: {error.strerror}. {advice}") from error
        self.count += 1

    def sync(self) -> None:
        """Make what is written survive a power cut; a checkpoint that counts these records may follow."""
        os.fsync(self._file.fileno())


def claim_folder(folder: Path, owner: str = "") -> TextIO:
    """Claim a folder for this process, as long as the file that is returned is open; a RunError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_lock(folder / LOCK)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(f"{folder} is in use by another run{owner}. Choose another --out.") from error
    except OSError as error:
        raise RunError(f"Cannot write to {folder}: {error.strerror}. Choose another --out.") from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


class RunFolder:
    """The files of one run, locked while a process trains in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.config, self.profile = path, path / "config.gin", path / "profile"
        self.checkpoint = path / "checkpoint.safetensors"
        self._lock: TextIO | None = None

    @property
    def finished(self) -> bool:
        """Whether it holds a run that has finished."""
        return (self.path / "run.json").exists() and self.facts().get("state") == "finished"

    def replicas(self) -> list[Replica]:
        """The run's replicas, as run.json has them. Raises RunError: this is not a run's folder."""
        return replicas_of(self.facts())

    def replica(self, name: str) -> Path:
        """One replica's folder."""
        return self.path / name

    def config_of(self, name: str) -> Path:
        """One replica's own configuration; the run's, in runs of early versions."""
        own = self.replica(name) / self.config.name
        return own if own.exists() else self.config

    def snapshot(self, name: str, step: int) -> Path:
        """One replica's weights at one evaluation."""
        return self.replica(name) / "checkpoints" / f"step-{step:09d}.safetensors"

    def check(self, resume: bool) -> None:
        """See that a run can be started, or resumed, here, or raise a RunError that says why not; touches nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a folder. Choose another --out.")
        if self.in_use():
            raise RunError(f"{self.path} is in use by another run{self._owner()}. Choose another --out.")
        if not (self.path / "run.json").exists():
            names = [item.name for item in self.path.iterdir()] if self.path.exists() else []
            if not all(any(fnmatch(name, own) for own in BEFORE_A_RUN) for name in names):
                raise RunError(f"{self.path} is not empty and holds no run. Choose another --out.")
        elif not resume:
            raise RunError(f"{self.path} already holds a run. Use --resume to continue it, or choose another --out.")
        elif self.finished and not self._mendable():
            raise RunError(f"The run in {self.path} has finished: there is nothing to resume. See dqlab eval.")
        elif self.facts().get("state") == "failed" and not self._mendable():
            reason = next((str(known["reason"]) for known in map(self.failure, self.replicas()) if known), "")
            raise RunError(f"The run in {self.path} has failed, and would again: {reason}")
        else:  # the first checkpoint is written before the first record
            names = [replica.name for replica in self.replicas()]
            journals = [path for name in names if (path := self.replica(name) / "metrics.jsonl").exists()]
            begun = self.checkpoint.exists() or any(path.stat().st_size for path in journals)
            missing = " and ".join(path.name for path in (self.config, self.checkpoint) if not path.exists())
            if begun and missing:
                advice = "Put the file back, or choose another --out: beginning anew would overwrite its records."
                said = f"The run in {self.path} has begun, and its {missing} is missing: it cannot go on."
                raise RunError(f"{said} {advice}")

    def _mendable(self) -> bool:
        """Whether a replica has failed in a way that a resume may mend."""
        return any(failure and failure["kind"] == EVALUATION for failure in map(self.failure, self.replicas()))

    def lock(self) -> None:
        """Claim the folder for this process, until it ends, however it ends."""
        self._lock = claim_folder(self.path, self._owner())
        for pattern in LEFTOVERS:  # of a process killed while writing
            for leftover in self.path.rglob(pattern):
                leftover.unlink(missing_ok=True)

    def release(self) -> None:
        """Give up this process's claim, so that it may continue the run itself."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def in_use(self) -> bool:
        """Whether some process trains in the folder now."""
        if not (self.path / LOCK).exists():
            return False
        with open_lock(self.path / LOCK) as probe:
            try:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _owner(self) -> str:
        try:
            return f" (process {int((self.path / LOCK).read_text())})"
        except (OSError, ValueError):
            return ""

    def facts(self) -> RunRecord:
        """What run.json says. Raises RunError: this is not a run's folder, or the file is damaged."""
        from dqlab.tracking.records import RunRecord, read_record

        if not (self.path / "run.json").exists():
            grid = " It is a grid's: its runs lie in packs/." if (self.path / "grid.json").exists() else ""
            raise RunError(f"{self.path} is not the folder of a dqlab run (no readable run.json).{grid}")
        return read_record(self.path / "run.json", RunRecord)

    def write_facts(self, **facts: Any) -> None:
        """Add to run.json."""
        known: Mapping[str, Any] = self.facts() if (self.path / "run.json").exists() else {}
        write_text(self.path / "run.json", json.dumps({**known, **facts}, indent=1, default=str))

    def failure(self, replica: Replica) -> FailureRecord | None:
        """Why a replica ended before its time; None where it did not. Raises RunError: its record is damaged."""
        from dqlab.tracking.records import FailureRecord, read_record

        path = self.replica(replica.name) / FAILURE
        return read_record(path, FailureRecord) if path.exists() else None

    def summary(self, replica: Replica) -> SummaryRecord:
        """A finished replica's summary. Raises RunError: it has failed, or not finished, or its summary is damaged."""
        from dqlab.tracking.records import SummaryRecord, read_record

        if failure := self.failure(replica):
            raise RunError(f"{self.replica(replica.name)} has no summary: {failure['reason']}")
        path = self.replica(replica.name) / "summary.json"
        if not path.exists():
            advice = f"Continue it (dqlab train --resume --out {self.path}), or name a file of its checkpoints/."
            raise RunError(f"{path.parent} has no summary yet: the run has not finished. {advice}")
        return read_record(path, SummaryRecord)

    def chosen_step(self, replica: Replica, rule: str) -> int:
        """The step of the checkpoint that a selection rule chose. Raises RunError: as `summary`."""
        step = self.summary(replica)["selection"][rule]["step"]
        assert step is not None
        return step
