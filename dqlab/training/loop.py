"""The training loop: updates in stretches, means logged, evaluations, snapshots, checkpoints, early stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from threading import Event
from typing import Any, Protocol

import torch
from torch import Tensor

from dqlab.data.transitions import Transitions
from dqlab.envs.tasks import Task
from dqlab.errors import RunError, StoppedError
from dqlab.replica import Replica
from dqlab.run_folder import Journal, RunFolder
from dqlab.training import checkpoint
from dqlab.training.execution import Mode
from dqlab.training.model_selection import Episodes, Evaluated, early_stops
from dqlab.training.pack import Pack, PackState
from dqlab.training.plan import Training
from dqlab.training.standing import Failure, Standing
from dqlab.training.step import Step


class Observer(Protocol):
    """Whoever watches a run: the display."""

    def executes(self, mode: Mode) -> None:
        """How updates will be executed; making that ready comes next."""

    def logged(self, step: int, metrics: dict[str, float]) -> None:
        """Means over replicas of the losses since the last log."""

    def evaluated(self, step: int, evaluations: dict[str, Evaluated]) -> None:
        """The evaluation of every replica still running, by name."""

    def saved(self, step: int) -> None:
        """A checkpoint is written."""

    def failed(self, name: str, reason: str) -> None:
        """One replica has ended before its time; the others go on."""


Evaluate = Callable[[Pack, int, Mode, Collection[int]], list[Episodes]]


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
        stop: when it is set, the loop saves and ends at the next log.
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
        mode: Mode,
        resume: bool = False,
        stop: Event | None = None,
    ) -> None:
        self.plan, self.pack, self.data, self.task = plan, pack, data, task
        self.folder, self.observer, self._evaluate = folder, observer, evaluate
        self.evaluations: dict[str, list[Evaluated]] = {replica.name: [] for replica in replicas}
        self._interval: dict[str, Tensor] = {}  # sums since the last evaluation, (K,) float64, on the CPU
        self._interval_steps = 0
        self._saved_at = time.monotonic()
        self._stop = stop or Event()
        record = self._restore() if resume and folder.checkpoint.exists() else None
        self._saved_step = self.step if record else -1
        self.standing = Standing(replicas, folder, record)
        counts = record["journal"] if record else {}
        self.journals = {
            name: Journal(folder.replica(name) / "metrics.jsonl", counts.get(name, 0)) for name in self.evaluations
        }
        left = plan.steps - pack.state.step
        self._step = Step(pack, data, plan.batch_size, mode, left, settled=observer.executes)
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
        """
        if self.step == 0 and self.plan.evaluate_untrained and not any(self.evaluations.values()):
            self._record_evaluation()
        while not self.finished:
            self._heed_stop()
            stop = self.plan.next_stop(self.step)
            started, first = time.monotonic(), self.step
            while self.step < stop:
                self.advance()
            self._log(self.step - first, time.monotonic() - started)
            evaluate = self.step % self.plan.eval_every == 0 or self.step == self.plan.steps
            if evaluate:
                self._record_evaluation()
            if evaluate or time.monotonic() - self._saved_at > self.plan.checkpoint_seconds:
                self.save()

    def _heed_stop(self) -> None:
        if self._stop.is_set():
            if self._saved_step != self.step:
                self.save()
            raise StoppedError(f"stopped at step {self.step:,}; the checkpoint is written")

    def _log(self, steps: int, seconds: float) -> None:
        """Record the means over the last `steps` updates; the only place where losses reach the host."""
        sums = self._step.take_sums()
        self._check_finite(sums)
        for name, value in sums.items():
            self._interval[name] = self._interval.get(name, torch.zeros_like(value)) + value
        self._interval_steps += steps
        running = self.standing.running()
        for row, replica in running.items():
            metrics = {f"train/{name}": float(value[row] / steps) for name, value in sums.items()}
            self._write(replica.name, {**metrics, "train/updates_per_second": steps / seconds})
        if running:
            means = {name: float(value[list(running)].mean() / steps) for name, value in sums.items()}
            self.observer.logged(self.step, {**means, "updates_per_second": steps / seconds})

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
        self.standing.fail(replica, Failure(f"{what} {advice}", self.step))
        self.observer.failed(replica.name, f"{what} {advice}")

    def _record_evaluation(self) -> None:
        running, recorded = self.standing.running(), {}
        episodes = self._evaluate(self.pack, self.step, self.mode, running)
        for row, replica in running.items():
            if episodes[row].fault:
                self._fail(replica, f"The policy of {replica.title} gives {episodes[row].fault}.")
            else:
                recorded[replica.name] = self._record_one(row, replica, episodes[row])
        self._interval, self._interval_steps = {}, 0
        self.observer.evaluated(self.step, recorded)

    def _record_one(self, row: int, replica: Replica, episodes: Episodes) -> Evaluated:
        evaluated, name = self._evaluated(row, episodes), replica.name
        self.evaluations[name].append(evaluated)
        record = {"replica": name, "seed": replica.seed, **evaluated.as_dict()}
        checkpoint.save(self.folder.snapshot(name, self.step), self.pack.weights(row), record)
        self._write(name, _evaluation_metrics(evaluated, episodes))
        if self._stops(name):
            self.standing.stopped.add(name)
        return evaluated

    def _evaluated(self, row: int, episodes: Episodes) -> Evaluated:
        means = {name: float(self._interval[name][row] / self._interval_steps) for name in sorted(self._interval)}
        scores = self.task.score(episodes.returns)
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
        losses = [e.selection_loss for e in self.evaluations[name] if e.selection_loss is not None]
        return bool(losses) and early_stops.get(self.plan.early_stop)(losses)

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
            "journal": {name: journal.count for name, journal in self.journals.items()},
            "interval_steps": self._interval_steps,
        }
        tensors = {
            "parameters": state.parameters,
            "moments": state.moments,
            "targets": state.targets,
            "interval": self._interval,
        }
        for journal in self.journals.values():
            journal.sync()
        checkpoint.save(self.folder.checkpoint, tensors, record)
        self._saved_at, self._saved_step = time.monotonic(), state.step
        self.observer.saved(state.step)

    def _restore(self) -> dict[str, Any]:
        tensors, record = checkpoint.load(self.folder.checkpoint)
        if record["evaluations"].keys() != self.evaluations.keys():
            theirs = ", ".join(record["evaluations"])
            raise RunError(f"{self.folder.checkpoint} is of other replicas: {theirs}. Choose another --out.")
        device = self.pack.device

        def group(name: str) -> dict[str, Tensor]:
            return {key: value.to(device) for key, value in tensors.get(name, {}).items()}

        self.pack.state = PackState(group("parameters"), group("moments"), group("targets"), record["step"])
        self._interval, self._interval_steps = tensors.get("interval", {}), record["interval_steps"]
        self.evaluations = {name: [Evaluated(**e) for e in done] for name, done in record["evaluations"].items()}
        return record


def _evaluation_metrics(evaluated: Evaluated, episodes: Episodes) -> dict[str, float]:
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
