"""What has become of each replica of a run: its evaluations, whether it has stopped early or failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dqlab.config.replica import Replica
from dqlab.files import write_text
from dqlab.tracking.run_folder import FAILURE, RunFolder
from dqlab.training.model_selection import Evaluated, FailedEvaluation


@dataclass(frozen=True)
class ReplicaFailure:
    """Why a replica ended before its time.

    Attributes:
        reason: one line, for people.
        step: updates done when it was noticed.
        kind: `diverged`: it would again; `evaluation`: its last evaluation gave no score, which a resume repeats.
    """

    reason: str
    step: int
    kind: str = "diverged"


class ReplicaStates:
    """The replicas of a run, in the order of the pack's rows.

    Args:
        replicas: all of them.
        folder: a failure is written into the replica's own folder at once.
        record: of the checkpoint that the run continues from; failures that it does not know of are forgotten.

    Attributes:
        evaluations, failed_evaluations: of every replica, by name, in order of step.
        failed: those that ended before their time, by name.
    """

    def __init__(self, replicas: Sequence[Replica], folder: RunFolder, record: Mapping[str, Any] | None = None) -> None:
        record = record or {"stopped": [], "failed": {}}
        self.replicas, self._folder = tuple(replicas), folder
        names, failed = [replica.name for replica in replicas], record.get("failed_evaluations", {})
        done = record.get("evaluations", {})
        self.evaluations = {name: [Evaluated(**each) for each in done.get(name, [])] for name in names}
        self.failed_evaluations = {name: [FailedEvaluation(**each) for each in failed.get(name, [])] for name in names}
        self._stopped: set[str] = set(record["stopped"])
        self.failed = {name: ReplicaFailure(**failure) for name, failure in record["failed"].items()}
        for name in names:
            if name not in self.failed:
                (folder.replica(name) / FAILURE).unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON says it."""
        return {
            "stopped": sorted(self._stopped),
            "failed": {name: asdict(failure) for name, failure in self.failed.items()},
            "evaluations": {name: [e.as_dict() for e in done] for name, done in self.evaluations.items()},
            "failed_evaluations": {name: [e.as_dict() for e in bad] for name, bad in self.failed_evaluations.items()},
        }

    def running(self) -> dict[int, Replica]:
        """Row -> replica of those still in training."""
        over = self._stopped | set(self.failed)
        return {row: replica for row, replica in enumerate(self.replicas) if replica.name not in over}

    def stop(self, replica: Replica) -> None:
        """End the training of one replica early, as its rule has it."""
        self._stopped.add(replica.name)

    def fail(self, replica: Replica, failure: ReplicaFailure) -> None:
        """End one replica."""
        self.failed[replica.name] = failure
        write_text(self._folder.replica(replica.name) / FAILURE, json.dumps(asdict(failure), indent=1))

    def selection_losses(self, name: str) -> list[float]:
        """A replica's selection losses so far, in order of step, failed evaluations included."""
        every: list[Evaluated | FailedEvaluation] = [*self.evaluations[name], *self.failed_evaluations[name]]
        return [loss for _, loss in sorted((e.step, e.selection_loss) for e in every if e.selection_loss is not None)]

    def last_failed_evaluation(self, name: str) -> FailedEvaluation | None:
        """A replica's last evaluation, where it failed."""
        failed, done = self.failed_evaluations[name], self.evaluations[name]
        return failed[-1] if failed and not (done and done[-1].step > failed[-1].step) else None
