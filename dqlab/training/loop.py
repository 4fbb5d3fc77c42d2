"""The training loop: updates in stretches, means logged, evaluations, snapshots, checkpoints, early stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dqlab.config.replica import Replica
from dqlab.data.transitions import Transitions
from dqlab.envs.tasks import Task
from dqlab.errors import EnvError, RunError, StoppedError
from dqlab.files import write_text
from dqlab.tracking.run_folder import EVALUATION, FAILURE, Journal, RunFolder
from dqlab.training import checkpoint
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.model_selection import Evaluated, EvaluationEpisodes, FailedEvaluation, early_stops
from dqlab.training.pack import Pack, PackState
from dqlab.training.plan import Training
from dqlab.training.step import Step

if TYPE_CHECKING:
    from dqlab.tracking.records import StateRecord


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
        self.failed = {name: ReplicaFailure(**failure) for name, failure in record["failed"].items()}
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

    def fail(self, replica: Replica, failure: ReplicaFailure) -> None:
        """End one replica."""
        self.failed[replica.name] = failure
        write_text(self._folder.replica(replica.name) / FAILURE, json.dumps(asdict(failure), indent=1))


class Observer(Protocol):
    """Whoever watches a run: the display."""

    def executes(self, mode: ExecutionMode) -> None:
        """How updates will be executed; making that ready comes next."""

    def logged(self, step: int, metrics: dict[str, float]) -> None:
        """Means over replicas of the losses since the last log."""

    def evaluated(self, step: int, evaluations: dict[str, Evaluated]) -> None:
        """The evaluation of every replica still running, by name."""

    def evaluation_failed(self, what: str) -> None:
        """The environment gave one replica no score; it goes on."""

    def saved(self, step: int) -> None:
        """A checkpoint is written."""

    def failed(self, name: str, reason: str) -> None:
        """One replica has ended before its time; the others go on."""


Evaluate = Callable[[Pack, int, ExecutionMode, Collection[int]], list[EvaluationEpisodes]]


class Loop:
    """Trains one pack in one run folder.

    Args:
        plan: budget and intervals.
        pack, data: on the same device.
        replicas: the pack's rows, by name.
        evaluate: `(pack, step, mode, rows) -> Episodes of each replica`, those of the rows meaning something.
        task: whose scores are meant.
        folder: where everything is written.
        observer: told of progress.
        mode: how the update is executed.
        resume: continue from the folder's checkpoint, if there is one.
        stop: when it is set, the loop saves and ends after the update, or the step of an evaluation, under way.

    Attributes:
        evaluations, failed_evaluations: of every replica, by name, in order of step.
    """

    def __init__(
        self,
        plan: Training,
        pack: Pack,
        data: Transitions,
        replicas: Sequence[Replica],
        evaluate: Evaluate,
        task: Task,
        folder: RunFolder,
        observer: Observer,
        mode: ExecutionMode,
        resume: bool = False,
        stop: Event | None = None,
    ) -> None:
        self.plan, self.pack, self.data, self.task = plan, pack, data, task
        self.folder, self.observer, self._evaluate = folder, observer, evaluate
        self.evaluations: dict[str, list[Evaluated]] = {replica.name: [] for replica in replicas}
        self.failed_evaluations: dict[str, list[FailedEvaluation]] = {replica.name: [] for replica in replicas}
        self._interval: dict[str, Tensor] = {}  # sums since the last evaluation, (K,) float64, on the CPU
        self._interval_steps = 0
        self._window: dict[str, Tensor] = {}  # the same since the last log, where the run goes on between two
        self._logged_at, self._evaluated_at = 0, -1  # steps
        self._saved_at = time.monotonic()
        self._stop = stop or Event()
        record = self._restore() if resume and folder.checkpoint.exists() else None
        self._saved_step = self.step if record else -1
        self.standing = ReplicaStates(replicas, folder, record)
        counts = record["journal"] if record else {}
        self.journals = {
            name: Journal(folder.replica(name) / "metrics.jsonl", counts.get(name, 0)) for name in self.evaluations
        }
        left = plan.steps - pack.state.step
        self._step = Step(pack, data, plan.batch_size, mode, left, settled=observer.executes)
        self._step.put_sums(self._window)
        self.mode = self._step.mode
        self.advance: Callable[[], None] = self._step  # what does one update; whoever watches it may wrap it

    @property
    def step(self) -> int:
        """Updates done."""
        return self.pack.state.step

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or no replica is in training any more."""
        return self.step >= self.plan.steps or not self.standing.running()

    def run(self) -> None:
        """Train to the end of the budget, or until no replica is in training any more.

        Raises:
            StoppedError: it was asked to stop; the checkpoint is written.
            EnvError: an environment raised an error in an evaluation; so it is.
        """
        if self._saved_step < 0:
            self.save()  # from here on, a run without a checkpoint has lost it
        while self._is_due() or not self.finished:
            self._heed_stop()
            if self._is_due():
                self._evaluate_here()
            else:
                self._train_on()
        self._fail_unevaluated()

    def _is_due(self) -> bool:
        """Whether an evaluation belongs here, and has not been made."""
        if self._evaluated_at == self.step or not self.standing.running():
            return False
        if self.step == 0:
            return self.plan.evaluate_untrained
        return self.step % self.plan.eval_every == 0 or self.step == self.plan.steps

    def _train_on(self) -> None:
        """Update until something is logged or evaluated, or it is asked to stop."""
        stop, started, first = self.plan.next_stop(self.step), time.monotonic(), self.step
        while self.step < stop and not self._stop.is_set():
            self.advance()
        if self.step == stop:
            self._log((self.step - first) / (time.monotonic() - started))
            if time.monotonic() - self._saved_at > self.plan.checkpoint_seconds:
                self.save()

    def _evaluate_here(self) -> None:
        """Evaluate with a checkpoint written before, since the environment is somebody else's code, and after.

        Where a last evaluation has failed, the one before stays: a resume repeats the evaluation.
        """
        if self._saved_step != self.step:
            self.save()
        self._record_evaluation()
        self._evaluated_at = self.step
        if self.step < self.plan.steps or not any(self._last_failed(name) for name in self.evaluations):
            self.save()

    def _heed_stop(self) -> None:
        """End here, with a checkpoint, if that is asked for.

        Raises:
            StoppedError: it is.
        """
        if self._stop.is_set():
            if self._saved_step != self.step:
                self.save()
            raise StoppedError(f"stopped at step {self.step:,}; the checkpoint is written")

    def _log(self, speed: float) -> None:
        """Record means over the updates since the last log; the only place where losses reach the host."""
        sums, steps = self._step.take_sums(), self.step - self._logged_at
        self._logged_at = self.step
        self._check_finite(sums)
        for name, value in sums.items():
            self._interval[name] = self._interval.get(name, torch.zeros_like(value)) + value
        self._interval_steps += steps
        running = self.standing.running()
        for row, replica in running.items():
            metrics = {f"train/{name}": float(value[row] / steps) for name, value in sums.items()}
            self._write(replica.name, {**metrics, "train/updates_per_second": speed})
        if running:
            means = {name: float(value[list(running)].mean() / steps) for name, value in sums.items()}
            self.observer.logged(self.step, {**means, "updates_per_second": speed})

    def _check_finite(self, sums: dict[str, Tensor]) -> None:
        for row, replica in self.standing.running().items():
            broken = next((name for name, value in sums.items() if not bool(torch.isfinite(value[row]))), None)
            if broken:
                self._fail(replica, f"{broken} of {replica.title} became NaN or infinite before step {self.step}.")

    def _fail(self, replica: Replica, what: str) -> None:
        """End one replica; the others go on."""
        advice = (
            "Start another run with a lower learning rate or a gradient bound (grad_norm); the records are in "
            f"{self.folder.path}."
        )
        self.standing.fail(replica, ReplicaFailure(f"{what} {advice}", self.step))
        self.observer.failed(replica.name, f"{what} {advice}")

    def _record_evaluation(self) -> None:
        running, recorded = self.standing.running(), {}
        episodes = self._roll_out(running)
        for row, replica in running.items():
            fault = episodes[row].fault
            if fault is None:
                recorded[replica.name] = self._record_one(row, replica, episodes[row])
                continue
            what = f"The evaluation of {replica.title} after {self.step:,} updates failed: {fault.reason}"
            if fault.diverged:
                self._fail(replica, what)
            else:
                self._record_failed(row, replica, fault.reason)
                self.observer.evaluation_failed(what)
        self._interval, self._interval_steps = {}, 0
        self.observer.evaluated(self.step, recorded)

    def _roll_out(self, running: Collection[int]) -> list[EvaluationEpisodes]:
        try:
            return self._evaluate(self.pack, self.step, self.mode, running)
        except StoppedError:
            self._heed_stop()
            raise
        except EnvError as error:
            raise EnvError(
                f"The evaluation after {self.step:,} updates ended: {error} The checkpoint is written. When the "
                f"environment is mended, dqlab train --resume --out {self.folder.path} goes on with the evaluation."
            ) from error

    def _record_one(self, row: int, replica: Replica, episodes: EvaluationEpisodes) -> Evaluated:
        evaluated, name = self._evaluated(row, episodes), replica.name
        self.evaluations[name].append(evaluated)
        self._keep(row, replica, evaluated)
        self._write(name, _evaluation_metrics(evaluated, episodes))
        return evaluated

    def _record_failed(self, row: int, replica: Replica, reason: str) -> None:
        """Record that there is no score; the weights are kept: they can be evaluated later."""
        loss = self._means(row).get(self.pack.algorithm.selection_loss)
        failed = FailedEvaluation(self.step, reason, loss)
        self.failed_evaluations[replica.name].append(failed)
        self._keep(row, replica, failed)
        if self.step < self.plan.steps:  # the last one is repeated by a resume, which would record something else
            self._write(replica.name, {"eval/failed": 1.0, **({} if loss is None else {"eval/selection_loss": loss})})

    def _keep(self, row: int, replica: Replica, evaluated: Evaluated | FailedEvaluation) -> None:
        """Write a replica's weights, and stop it early if it is time."""
        record = {"replica": replica.name, "seed": replica.seed, **evaluated.as_dict()}
        checkpoint.write_checkpoint(self.folder.snapshot(replica.name, self.step), self.pack.weights(row), record)
        if self._stops(replica.name):
            self.standing.stopped.add(replica.name)

    def _means(self, row: int) -> dict[str, float]:
        """Every loss's mean since the last evaluation."""
        return {name: float(self._interval[name][row] / self._interval_steps) for name in sorted(self._interval)}

    def _evaluated(self, row: int, episodes: EvaluationEpisodes) -> Evaluated:
        means, scores = self._means(row), self.task.score(episodes.returns)
        return Evaluated(
            self.step,
            float(episodes.returns.mean()),
            float(episodes.returns.std()),
            float(self.task.score(episodes.returns.mean())),
            float(scores.std()),
            means.get(self.pack.algorithm.selection_loss),
            means,
        )

    def _stops(self, name: str) -> bool:
        every: list[Evaluated | FailedEvaluation] = [*self.evaluations[name], *self.failed_evaluations[name]]
        known = sorted((each.step, each.selection_loss) for each in every if each.selection_loss is not None)
        losses = [loss for _, loss in known]
        return bool(losses) and early_stops.get(self.plan.early_stop)(losses)

    def _last_failed(self, name: str) -> FailedEvaluation | None:
        """A replica's last evaluation, where it failed."""
        failed, done = self.failed_evaluations[name], self.evaluations[name]
        return failed[-1] if failed and not (done and done[-1].step > failed[-1].step) else None

    def _fail_unevaluated(self) -> None:
        """A replica whose last evaluation failed has no result; a resume may mend that."""
        for replica in self.standing.replicas:
            failed = self._last_failed(replica.name)
            if failed and replica.name not in self.standing.failed:
                reason = (
                    f"The last evaluation of {replica.title}, after {failed.step:,} updates, failed: {failed.reason} "
                    "Weights and earlier evaluations are kept. When the environment is mended, dqlab train --resume "
                    f"--out {self.folder.path} evaluates again."
                )
                self.standing.fail(replica, ReplicaFailure(reason, failed.step, EVALUATION))
                self.observer.failed(replica.name, reason)

    def _write(self, name: str, metrics: dict[str, float]) -> None:
        self.journals[name].append({"step": self.step, "time": time.time(), "metrics": metrics})

    def save(self) -> None:
        """Write the full state: together with the seeds, all that the rest of the run depends on."""
        state = self.pack.state
        record = {
            "step": state.step,
            "seeds": self.pack.seeds,
            **self.standing.record(),
            "evaluations": {name: [e.as_dict() for e in done] for name, done in self.evaluations.items()},
            "failed_evaluations": {name: [e.as_dict() for e in bad] for name, bad in self.failed_evaluations.items()},
            "evaluated_at": self._evaluated_at,
            "logged_at": self._logged_at,
            "journal": {name: journal.count for name, journal in self.journals.items()},
            "interval_steps": self._interval_steps,
        }
        tensors = {
            "parameters": state.parameters,
            "moments": state.moments,
            "targets": state.targets,
            "interval": self._interval,
            "window": self._step.look_at_sums(),
        }
        for journal in self.journals.values():
            journal.sync()
        checkpoint.write_checkpoint(self.folder.checkpoint, tensors, record)
        self._saved_at, self._saved_step = time.monotonic(), state.step
        self.observer.saved(state.step)

    def _restore(self) -> StateRecord:
        tensors, record = checkpoint.load_state(self.folder.checkpoint)
        if record["evaluations"].keys() != self.evaluations.keys():
            theirs = ", ".join(record["evaluations"])
            raise RunError(f"{self.folder.checkpoint} is of other replicas: {theirs}. Choose another --out.")
        device = self.pack.device

        def group(name: str) -> dict[str, Tensor]:
            return {key: value.to(device) for key, value in tensors.get(name, {}).items()}

        self.pack.state = PackState(group("parameters"), group("moments"), group("targets"), record["step"])
        self._interval, self._interval_steps = tensors.get("interval", {}), record["interval_steps"]
        self.evaluations = {name: [Evaluated(**e) for e in done] for name, done in record["evaluations"].items()}
        for name, bad in record.get("failed_evaluations", {}).items():
            self.failed_evaluations[name] = [FailedEvaluation(**e) for e in bad]
        self._window, step = tensors.get("window", {}), record["step"]  # earlier versions saved at logs only
        self._logged_at, self._evaluated_at = record.get("logged_at", step), record.get("evaluated_at", step)
        return record


def _evaluation_metrics(evaluated: Evaluated, episodes: EvaluationEpisodes) -> dict[str, float]:
    metrics = {
        "eval/return_mean": evaluated.return_mean,
        "eval/return_std": evaluated.return_std,
        "eval/length_mean": float(episodes.lengths.mean()),
        "score/mean": evaluated.score_mean,
        "score/std": evaluated.score_std,
    }
    if evaluated.selection_loss is not None:
        metrics["eval/selection_loss"] = evaluated.selection_loss
    return metrics
