"""The training loop: updates in stretches, means logged, evaluations, snapshots, checkpoints, early stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dqlab.data.transitions import Transitions
from dqlab.envs.tasks import Task
from dqlab.errors import RunError
from dqlab.run_folder import Journal, RunFolder
from dqlab.training import checkpoint
from dqlab.training.execution import Mode
from dqlab.training.model_selection import Episodes, Evaluated, early_stops
from dqlab.training.pack import Pack, PackState
from dqlab.training.plan import Training
from dqlab.training.step import Step


class Observer(Protocol):
    """Whoever watches a run: the display."""

    def executes(self, mode: Mode) -> None:
        """How updates will be executed; making that ready comes next."""

    def logged(self, step: int, metrics: dict[str, float]) -> None:
        """Means over replicas of the losses since the last log."""

    def evaluated(self, step: int, evaluations: dict[int, Evaluated]) -> None:
        """The evaluation of every replica still running, by seed."""


Evaluate = Callable[[Pack, int, Mode], list[Episodes]]


class Loop:
    """Trains one pack in one run folder.

    Args:
        plan: budget and intervals.
        pack, data: on the same device.
        evaluate: `(pack, step, mode) -> Episodes of each replica`.
        task: whose scores are meant.
        folder: where everything is written.
        observer: told of progress.
        mode: how the update is executed.
        resume: continue from the folder's checkpoint, if there is one.
    """

    def __init__(
        self,
        plan: Training,
        pack: Pack,
        data: Transitions,
        evaluate: Evaluate,
        task: Task,
        folder: RunFolder,
        observer: Observer,
        mode: Mode,
        resume: bool = False,
    ) -> None:
        self.plan, self.pack, self.data, self.task = plan, pack, data, task
        self.folder, self.observer, self._evaluate = folder, observer, evaluate
        self.evaluations: dict[int, list[Evaluated]] = {seed: [] for seed in pack.seeds}
        self.stopped: set[int] = set()
        self._interval: dict[str, Tensor] = {}  # sums since the last evaluation, (K,) float64, on the CPU
        self._interval_steps = 0
        self._saved_at = time.monotonic()
        counts = self._restore() if resume and folder.checkpoint.exists() else {}
        self.journals = {
            seed: Journal(folder.replica(seed) / "metrics.jsonl", counts.get(str(seed), 0)) for seed in pack.seeds
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
        """Whether the budget is spent, or every replica has stopped early."""
        return self.step >= self.plan.steps or len(self.stopped) == self.pack.replicas

    def run(self) -> None:
        """Train to the end of the budget, or until every replica has stopped early."""
        if self.step == 0 and self.plan.evaluate_untrained and not any(self.evaluations.values()):
            self._record_evaluation()
        while not self.finished:
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

    def _log(self, steps: int, seconds: float) -> None:
        """Record the means over the last `steps` updates; the only place where losses reach the host."""
        sums = self._step.take_sums()
        self._check_finite(sums)
        for name, value in sums.items():
            self._interval[name] = self._interval.get(name, torch.zeros_like(value)) + value
        self._interval_steps += steps
        for row, seed in enumerate(self.pack.seeds):
            if seed not in self.stopped:
                metrics = {f"train/{name}": float(value[row] / steps) for name, value in sums.items()}
                self._write(seed, {**metrics, "train/updates_per_second": steps / seconds})
        means = {name: float(value.mean() / steps) for name, value in sums.items()}
        self.observer.logged(self.step, {**means, "updates_per_second": steps / seconds})

    def _check_finite(self, sums: dict[str, Tensor]) -> None:
        for name, value in sums.items():
            for seed, total in zip(self.pack.seeds, value.tolist(), strict=True):
                if not np.isfinite(total) and seed not in self.stopped:
                    raise RunError(
                        f"{name} of seed {seed} became NaN or infinite before step {self.step}. Start another run with "
                        f"a lower learning rate or a gradient bound (grad_norm); the records are in {self.folder.path}."
                    )

    def _record_evaluation(self) -> None:
        episodes = self._evaluate(self.pack, self.step, self.mode)
        recorded = {}
        for row, seed in enumerate(self.pack.seeds):
            if seed in self.stopped:
                continue
            recorded[seed] = evaluated = self._evaluated(row, episodes[row])
            self.evaluations[seed].append(evaluated)
            checkpoint.save(
                self.folder.snapshot(seed, self.step), self.pack.weights(row), {"seed": seed, **evaluated.as_dict()}
            )
            self._write(seed, _evaluation_metrics(evaluated, episodes[row]))
            if self._stops(seed):
                self.stopped.add(seed)
        self._interval, self._interval_steps = {}, 0
        self.observer.evaluated(self.step, recorded)

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

    def _stops(self, seed: int) -> bool:
        losses = [e.selection_loss for e in self.evaluations[seed] if e.selection_loss is not None]
        return bool(losses) and early_stops.get(self.plan.early_stop)(losses)

    def _write(self, seed: int, metrics: dict[str, float]) -> None:
        self.journals[seed].append({"step": self.step, "time": time.time(), "metrics": metrics})

    def save(self) -> None:
        """Write the full state: together with the seeds, all that the rest of the run depends on."""
        state = self.pack.state
        record = {
            "step": state.step,
            "seeds": self.pack.seeds,
            "stopped": sorted(self.stopped),
            "evaluations": {seed: [e.as_dict() for e in done] for seed, done in self.evaluations.items()},
            "journal": {seed: journal.count for seed, journal in self.journals.items()},
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
        self._saved_at = time.monotonic()

    def _restore(self) -> dict[str, int]:
        tensors, record = checkpoint.load(self.folder.checkpoint)
        device = self.pack.device

        def group(name: str) -> dict[str, Tensor]:
            return {key: value.to(device) for key, value in tensors.get(name, {}).items()}

        self.pack.state = PackState(group("parameters"), group("moments"), group("targets"), record["step"])
        self._interval, self._interval_steps = tensors.get("interval", {}), record["interval_steps"]
        self.stopped = set(record["stopped"])
        self.evaluations = {int(seed): [Evaluated(**e) for e in done] for seed, done in record["evaluations"].items()}
        counts: dict[str, int] = record["journal"]
        return counts


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
