"""How the replicas of a pack stand: still in training, stopped early, or failed. None takes another one with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dqlab.files import write_text
from dqlab.replica import Replica
from dqlab.run_folder import EVALUATION, FAILURE, RunFolder

__all__ = ["EVALUATION", "Failure", "Standing"]


@dataclass(frozen=True)
class Failure:
    """Why a replica ended before its time.

    Attributes:
        reason: one line, for people.
        step: updates done when it was noticed.
        kind: `diverged`: it would again; `evaluation`: its last evaluation gave no score, which a resume repeats.
    """

    reason: str
    step: int
    kind: str = "diverged"


class Standing:
    """How each replica of a run stands.

    Args:
        replicas: in the order of the pack's rows.
        folder: a failure is written into the replica's own folder at once.
        record: of a checkpoint; failures that it does not know of are forgotten.
    """

    def __init__(self, replicas: Sequence[Replica], folder: RunFolder, record: Mapping[str, Any] | None = None) -> None:
        record = record or {"stopped": [], "failed": {}}
        self.replicas, self._folder = tuple(replicas), folder
        self.stopped: set[str] = set(record["stopped"])
        self.failed = {name: Failure(**failure) for name, failure in record["failed"].items()}
        for replica in self.replicas:
            if replica.name not in self.failed:
                (folder.replica(replica.name) / FAILURE).unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        """For a checkpoint."""
        failed = {name: asdict(failure) for name, failure in self.failed.items()}
        return {"stopped": sorted(self.stopped), "failed": failed}

    def running(self) -> dict[int, Replica]:
        """Row -> replica of those still in training."""
        over = self.stopped | set(self.failed)
        return {row: replica for row, replica in enumerate(self.replicas) if replica.name not in over}

    def fail(self, replica: Replica, failure: Failure) -> None:
        """End one replica."""
        self.failed[replica.name] = failure
        write_text(self._folder.replica(replica.name) / FAILURE, json.dumps(asdict(failure), indent=1))
