"""What the evaluations of a run were, and what follows from them for each replica.

When to stop early, and which checkpoint a score belongs to: last, best-online, offline, mean of the last ten. No score
without its selection rule: best-of-checkpoints is worth up to 20 points over the last one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.fields import check_counts
from dqlab.config.identity import Replica
from dqlab.config.registry import Registry
from dqlab.tracking.run_folder import FAILURE, RunFolder

if TYPE_CHECKING:
    from dqlab.tracking.records import EvaluationRecord, FailedEvaluationRecord, FailedRecord


@dataclass(frozen=True)
class EvaluationEpisodes:
    """What one replica did in one evaluation: undiscounted returns and lengths (E,) of its episodes.

    Where they mean nothing, `fault` is a sentence that says why, and `diverged` whether that is the policy, which has
    no use any more, and not the environment.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    fault: str = ""
    diverged: bool = False


PAPER = ("wang2023diffusion",)  # Diffusion-QL's, whose official code has these rules
OfflineRule = Callable[[Sequence[float], int], int]
offline_rules: Registry[OfflineRule] = Registry(
    "offline_rule",
    "Which evaluation offline selection takes: (selection losses, top_k) -> index.",
    "Training.offline_rule",
)


@offline_rules.register("kth_lowest", source="Diffusion-QL (what is meant)", cites=PAPER)
def kth_lowest(losses: Sequence[float], top_k: int) -> int:
    """The evaluation whose loss is the (top_k + 1)-th lowest."""
    return int(np.argsort(losses, kind="stable")[min(top_k, len(losses) - 1)])


@offline_rules.register("official", source="Diffusion-QL's official code (what runs)", cites=PAPER)
def inverse_permutation(losses: Sequence[float], top_k: int) -> int:
    """argsort(losses) == top_k, the inverse permutation: the intended choice on a monotone curve only."""
    return int(np.flatnonzero(np.argsort(losses, kind="stable") == min(top_k, len(losses) - 1))[0])


EarlyStop = Callable[[Sequence[float]], bool]
early_stops: Registry[EarlyStop] = Registry(
    "early_stop", "Whether to stop after an evaluation: (selection losses so far) -> bool.", "Training.early_stop"
)


@early_stops.register("never", source="Diffusion-QL's official code without --early_stop", cites=PAPER)
def never(losses: Sequence[float]) -> bool:
    """Train for all of the steps."""
    return False


@early_stops.register("patience", source="Diffusion-QL's official code, --early_stop as meant", cites=PAPER)
def patience(losses: Sequence[float], tolerance: int = 5, min_delta: float = 0.0) -> bool:
    """Stop when the lowest loss is `tolerance` evaluations old, improvements under min_delta not counted."""
    check_counts("patience", tolerance=tolerance)
    best, age = float("inf"), 0
    for loss in losses:
        best, age = (loss, 0) if loss < best - min_delta else (best, age + 1)
    return age >= tolerance


@early_stops.register("official", source="Diffusion-QL's official code, --early_stop as it runs", cites=PAPER)
def last_two(losses: Sequence[float], initial: float = 100.0) -> bool:
    """Stop at the first evaluation whose loss is higher than the previous one's (the first one's: `initial`)."""
    return losses[-1] > (losses[-2] if len(losses) > 1 else initial)


def select_checkpoints(evaluations: Sequence[EvaluationRecord], offline_rule: str, top_k: int) -> dict[str, Any]:
    """All four selections of a run's evaluations, by the rule's name: `rule`, the checkpoint's `step` (None for a mean
    over several), and the score's `score_mean`, `score_std` and `return_mean`.

    Evaluations are in order of step, at least one of step > 0 and with a finite score; others are left out. `top_k` is
    the paper's k, per task.
    """
    trained = [e for e in evaluations if e["selection_loss"] is not None and math.isfinite(e["score_mean"])]
    losses = [e["selection_loss"] for e in trained if e["selection_loss"] is not None]
    best = int(np.argmax([e["score_mean"] for e in trained]))
    offline = offline_rules.get(offline_rule)(losses, top_k)
    recent, returns = zip(*((e["score_mean"], e["return_mean"]) for e in trained[-10:]), strict=True)
    mean = [None, float(np.mean(recent)), float(np.std(recent)), float(np.mean(returns))]
    columns = ("step", "score_mean", "score_std", "return_mean")
    rows: dict[str, Mapping[str, Any]] = {
        "last": trained[-1],
        "best_online": trained[best],
        "offline": trained[offline],
        "mean_last_10": dict(zip(columns, mean, strict=True)),
    }
    return {rule: {"rule": rule, **{name: row[name] for name in columns}} for rule, row in rows.items()}


def official_result(evaluation: EvaluationRecord, selection: str) -> str:
    """The content of the official code's best_score_{online,offline}.txt."""
    return json.dumps(
        {
            "model selection": selection,
            "epoch": evaluation["step"] / 1000,
            "best normalized score avg": evaluation["score_mean"],
            "best normalized score std": evaluation["score_std"],
            "best raw score avg": evaluation["return_mean"],
            "best raw score std": evaluation["return_std"],
        }
    )


class ReplicaStates:
    """The replicas of a run, in the order of the pack's rows.

    Args:
        folder: has a failure's record in the replica's own folder.
        record: of the checkpoint that the run continues from; failures that it does not know of are forgotten.

    Attributes:
        evaluations, failed_evaluations: of every replica, by name, in order of step.
        stopped: names of those whose training ended early, as the rule has it.
        failed: those that ended before their time, by name.
    """

    def __init__(self, replicas: Sequence[Replica], folder: RunFolder, record: Mapping[str, Any] | None = None) -> None:
        self.replicas, record = tuple(replicas), record or {}
        done, failed = record.get("evaluations", {}), record.get("failed_evaluations", {})
        self.evaluations: dict[str, list[EvaluationRecord]] = {}
        self.failed_evaluations: dict[str, list[FailedEvaluationRecord]] = {}
        self.stopped: set[str] = set(record.get("stopped", ()))
        self.failed: dict[str, FailedRecord] = {**record.get("failed", {})}
        for name in (replica.name for replica in replicas):
            self.evaluations[name], self.failed_evaluations[name] = [*done.get(name, ())], [*failed.get(name, ())]
            if name not in self.failed:
                (folder.replica(name) / FAILURE).unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON says it."""
        kept = {name: getattr(self, name) for name in ("failed", "evaluations", "failed_evaluations")}
        return {"stopped": sorted(self.stopped), **kept}

    def running(self) -> dict[int, Replica]:
        """Row -> replica of those still in training."""
        over = self.stopped | set(self.failed)
        return {row: replica for row, replica in enumerate(self.replicas) if replica.name not in over}

    def selection_losses(self, name: str) -> list[float]:
        """A replica's selection losses so far, in order of step, failed evaluations included."""
        every: list[Any] = [*self.evaluations[name], *self.failed_evaluations[name]]
        losses = [(each["step"], each["selection_loss"]) for each in every if each.get("selection_loss") is not None]
        return [loss for _, loss in sorted(losses)]

    def last_failed_evaluation(self, name: str) -> FailedEvaluationRecord | None:
        """A replica's last evaluation, where it failed."""
        failed, done = self.failed_evaluations[name], self.evaluations[name]
        return failed[-1] if failed and not (done and done[-1]["step"] > failed[-1]["step"]) else None
