"""The training loop: updates in stretches, means logged, evaluations, snapshots, checkpoints, early stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dqlab.config.identity import Replica
from dqlab.data import Transitions
from dqlab.errors import EnvError, RunError, StoppedError
from dqlab.files import write_text
from dqlab.tracking.run_folder import EVALUATION, FAILURE, Journal, RunFolder
from dqlab.training import checkpoint
from dqlab.training.evaluation import Evaluator
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.model_selection import EvaluationEpisodes, ReplicaStates, early_stops
from dqlab.training.pack import Pack, PackState
from dqlab.training.plan import Training
from dqlab.training.programs import Step

if TYPE_CHECKING:
    from dqlab.tracking.records import EvaluationRecord, FailedEvaluationRecord, FailedRecord, StateRecord


class RunCallbacks:
    """What a loop calls as it goes; each method does nothing unless it is overridden."""

    def on_execution(self, mode: ExecutionMode) -> None:
        """How updates will be executed; making that ready comes next."""

    def on_phase(self, step: int) -> None:
        """From this step on other networks are trained; making that ready comes next."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Means over replicas of the losses since the last log."""

    def on_evaluation(self, step: int, evaluations: dict[str, EvaluationRecord]) -> None:
        """The evaluation of every replica still running, by name."""

    def on_warning(self, text: str) -> None:
        """The environment gave one replica no score, or its critics' values can't be right; it goes on."""

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint is written."""

    def on_replica_failure(self, name: str, reason: str) -> None:
        """One replica has ended before its time; the others go on."""


BEYOND = 2.0
"""Values so many times the largest return are told of: what algorithms add to rewards, an entropy say, is less."""
UpdateContext = Callable[[int], AbstractContextManager[object]]
"""Step -> a context in which that update is done, as a profiler needs."""


class Loop:
    """Trains one pack in one run folder.

    Args:
        pack, data: on the same device; `replicas` are the pack's rows, by name.
        evaluator: when its `stop` is set, the loop saves and ends after the update, or its step, under way.
        folder: where everything is written; `resume`: continue from its checkpoint, if there is one.

    Attributes:
        states: what has become of each replica.
        mode: how updates are executed, `auto` resolved.
    """

    def __init__(
        self,
        plan: Training,
        pack: Pack,
        data: Transitions,
        replicas: Sequence[Replica],
        evaluator: Evaluator,
        folder: RunFolder,
        callbacks: RunCallbacks,
        mode: ExecutionMode,
        resume: bool,
    ) -> None:
        self.plan, self.pack, self.folder = plan, pack, folder
        self._callbacks, self._evaluator, self._stop = callbacks, evaluator, evaluator.stop
        self._interval: dict[str, Tensor] = {}  # sums since the last evaluation, (K,) float64, on the CPU
        self._interval_start = 0  # the step where these begin
        self._window: dict[str, Tensor] = {}  # the same since the last log, where the run goes on between two
        self._logged_at, self._evaluated_at = 0, -1  # steps
        self._saved_at = time.monotonic()
        self._largest_reward, self._told_of = float(data.reward.abs().max()), set[str]()
        self._discounts: list[float] = pack.hyper["discount"].tolist() if "discount" in pack.hyper else []
        names = [replica.name for replica in replicas]
        record = self._restore(names) if resume and folder.checkpoint.exists() else None
        self._saved_step = self.step if record else -1
        self.states = ReplicaStates(replicas, folder, record)
        counts = record["journal"] if record else {}
        self.journals = {name: Journal(folder.replica(name) / "metrics.jsonl", counts.get(name, 0)) for name in names}
        self._step = Step(pack, data, plan.batch_size, mode, plan.steps - self.step, callbacks.on_execution)
        self._step.restore_sums(self._window)
        self.mode = self._step.mode

    @property
    def step(self) -> int:
        """Updates done."""
        return self.pack.state.step

    def run(self, update_context: UpdateContext = nullcontext) -> None:
        """Train to the end of the budget, or until no replica is in training any more, each update in its context.

        Raises:
            StoppedError: it was asked to stop; the checkpoint is written.
            EnvError: an environment raised an error in an evaluation; so it is.
        """
        if self._saved_step < 0:
            self.save()  # from here on, a run without a checkpoint has lost it
        while self._is_due() or (self.step < self.plan.steps and self.states.running()):
            self._check_stop()
            if self._is_due():
                self._evaluate()
            else:
                self._train_on(update_context)
        self._fail_unevaluated()

    def _is_due(self) -> bool:
        """Whether an evaluation belongs here, and has not been made."""
        if self._evaluated_at == self.step or not self.states.running():
            return False
        regular = self.step % self.plan.eval_every == 0 or self.step == self.plan.steps
        return regular if self.step else self.plan.evaluate_untrained

    def _train_on(self, update_context: UpdateContext) -> None:
        """Update until something is logged or evaluated, a phase of training ends, or it is asked to stop."""
        started, first = time.monotonic(), self.step
        stop = min(self.plan.next_stop(first), self.pack.next_phase(first) or self.plan.steps)
        if first in self.pack.phases[1:]:
            if self._saved_step != first:  # compiling may take minutes
                self.save()
            self._callbacks.on_phase(first)
        while self.step < stop and not self._stop.is_set():
            with update_context(self.step):
                self._step()
        if self.step == stop:
            self._log((self.step - first) / (time.monotonic() - started))
            if time.monotonic() - self._saved_at > self.plan.checkpoint_seconds:
                self.save()

    def _evaluate(self) -> None:
        """Evaluate with a checkpoint written before, since the environment is somebody else's code, and after.

        Where a last evaluation has failed, the one before stays: a resume repeats the evaluation.
        """
        if self._saved_step != self.step:
            self.save()
        running, recorded = self.states.running(), {}
        try:
            episodes = self._evaluator.roll_out(self.pack, self.step, self.mode, running)
        except StoppedError:
            self._check_stop()
            raise
        except EnvError as error:
            raise EnvError(
                f"The evaluation after {self.step:,} updates ended: {error} The checkpoint is written. When the "
                f"environment is mended, dqlab train --resume --out {self.folder.path} goes on with the evaluation."
            ) from error
        for row, replica in running.items():
            what = f"The evaluation of {replica.title} after {self.step:,} updates failed: {episodes[row].fault}"
            if episodes[row].diverged:
                self._diverged(replica, what)
            elif done := self._record(row, replica, episodes[row]):
                recorded[replica.name] = done
            else:
                self._callbacks.on_warning(what)
        self._interval, self._interval_start = {}, self.step
        self._callbacks.on_evaluation(self.step, recorded)
        self._evaluated_at = self.step
        if self.step < self.plan.steps or not any(map(self.states.last_failed_evaluation, self.journals)):
            self.save()

    def _check_stop(self) -> None:
        """End here by a StoppedError, with a checkpoint, if that is asked for."""
        if self._stop.is_set():
            if self._saved_step != self.step:
                self.save()
            raise StoppedError(f"stopped at step {self.step:,}; the checkpoint is written")

    def _log(self, speed: float) -> None:
        """Record means over the updates since the last log; the only place where losses reach the host."""
        first, self._logged_at = self._logged_at, self.step
        sums, counts = self._step.take_sums(), self._step.counts(range(first, self.step))
        for row, replica in self.states.running().items():
            metrics = {f"train/{name}": float(sums[name][row] / counts[name]) for name in sums if counts[name]}
            if broken := next((name for name, value in sums.items() if not bool(torch.isfinite(value[row]))), None):
                self._diverged(replica, f"{broken} of {replica.title} became NaN or infinite before step {self.step}.")
                continue
            self._write(replica.name, {**metrics, "train/updates_per_second": speed})
            if "train/critic/target_q" in metrics and self._discounts:
                self._check_values(row, replica, metrics["train/critic/target_q"])
        if self._interval.keys() != sums.keys():  # a phase of training has begun
            self._interval, self._interval_start = {}, first
        self._interval = {name: self._interval.get(name, 0.0) + value for name, value in sums.items()}
        if running := self.states.running():
            means = {name: float(sums[name][list(running)].mean() / counts[name]) for name in sums if counts[name]}
            self._callbacks.on_log(self.step, {**means, "updates_per_second": speed})

    def _check_values(self, row: int, replica: Replica, value: float) -> None:
        """Say once that critics overestimate: no return is larger than max |r| / (1 - discount)."""
        discount = self._discounts[row]
        limit = self._largest_reward / (1 - discount) if discount < 1 else float("inf")
        if abs(value) > BEYOND * limit and replica.name not in self._told_of:
            self._told_of.add(replica.name)
            self._callbacks.on_warning(
                f"After {self.step:,} updates the mean TD target of {replica.title} is {value:.4g}. With rewards of at "
                f"most {self._largest_reward:.3g} and discount {discount:g} no return is beyond {limit:.4g}: the "
                "critics overestimate, and the policy follows their error. More data, a stronger pull to it (a smaller "
                "eta) or more pessimistic critics help."
            )

    def _diverged(self, replica: Replica, what: str) -> None:
        advice = "Start another run with a lower learning rate or a gradient bound (grad_norm)"
        self._fail(replica, f"{what} {advice}; the records are in {self.folder.path}.", self.step, "diverged")

    def _fail(self, replica: Replica, reason: str, step: int, kind: str) -> None:
        """End one replica, which is written into its own folder at once; the others go on."""
        failure: FailedRecord = {"reason": reason, "step": step, "kind": kind}
        self.states.failed[replica.name] = failure
        write_text(self.folder.replica(replica.name) / FAILURE, json.dumps(failure, indent=1))
        self._callbacks.on_replica_failure(replica.name, reason)

    def _record(self, row: int, replica: Replica, episodes: EvaluationEpisodes) -> EvaluationRecord | None:
        """Record a replica's weights and evaluation, which is None where it failed, and stop it early if it is time."""
        sums, counts = self._interval, self._step.counts(range(self._interval_start, self.step))
        means = {name: float(sums[name][row] / counts[name]) for name in sorted(sums) if counts.get(name)}
        wanted, known = self.pack.algorithm.selection_loss, self.states.selection_losses(replica.name)
        resting = known[-1] if known and wanted in sums else None  # it has not changed since
        loss = means.get(wanted, resting)
        done: EvaluationRecord | None = None
        failed: FailedEvaluationRecord = {"step": self.step, "reason": episodes.fault, "selection_loss": loss}
        if episodes.fault:
            self.states.failed_evaluations[replica.name].append(failed)
            metrics = {"eval/failed": 1.0}
        else:
            returns, score = episodes.returns, self._evaluator.task.score
            done = {
                "step": self.step,
                "return_mean": float(returns.mean()),
                "return_std": float(returns.std()),
                "score_mean": float(score(returns.mean())),
                "score_std": float(score(returns).std()),
                "selection_loss": loss,
                "losses": means,
            }
            self.states.evaluations[replica.name].append(done)
            metrics = {"eval/return_mean": done["return_mean"], "eval/return_std": done["return_std"]}
            metrics |= {"eval/length_mean": float(episodes.lengths.mean())}
            metrics |= {"score/mean": done["score_mean"], "score/std": done["score_std"]}
        record = {"replica": replica.name, "seed": replica.seed, **(done or failed)}
        checkpoint.write_checkpoint(self.folder.snapshot(replica.name, self.step), self.pack.weights(row), record)
        losses = self.states.selection_losses(replica.name)
        if done and losses and early_stops.get(self.plan.early_stop)(losses):  # one that failed would be the last
            self.states.stopped.add(replica.name)
        if done or self.step < self.plan.steps:  # a resume repeats a last one that failed: it would record another
            self._write(replica.name, metrics | ({} if loss is None else {"eval/selection_loss": loss}))
        return done

    def _fail_unevaluated(self) -> None:
        """A replica whose last evaluation failed has no result; a resume may mend that."""
        for replica in self.states.replicas:
            failed = self.states.last_failed_evaluation(replica.name)
            if failed and replica.name not in self.states.failed:
                reason = (
                    f"The last evaluation of {replica.title}, after {failed['step']:,} updates, failed: "
                    f"{failed['reason']} Weights and earlier evaluations are kept. When the environment is mended, "
                    f"dqlab train --resume --out {self.folder.path} evaluates again."
                )
                self._fail(replica, reason, failed["step"], EVALUATION)

    def _write(self, name: str, metrics: dict[str, float]) -> None:
        self.journals[name].append({"step": self.step, "time": time.time(), "metrics": metrics})

    def save(self) -> None:
        """Write the full state: together with the seeds, all that the rest of the run depends on."""
        state = self.pack.state
        record = {
            "step": state.step,
            "seeds": self.pack.seeds,
            **self.states.record(),
            "evaluated_at": self._evaluated_at,
            "logged_at": self._logged_at,
            "journal": {name: journal.count for name, journal in self.journals.items()},
            "interval_start": self._interval_start,
        }
        tensors = {
            "parameters": state.parameters,
            "moments": {name: torch.stack(both, dim=1) for name, both in state.moments.items()},
            "targets": state.targets,
            "interval": self._interval,
            "window": self._step.current_sums(),
        }
        for journal in self.journals.values():
            journal.sync()
        checkpoint.write_checkpoint(self.folder.checkpoint, tensors, record)
        self._saved_at, self._saved_step = time.monotonic(), state.step
        self._callbacks.on_checkpoint(state.step)

    def _restore(self, names: Collection[str]) -> StateRecord:
        from dqlab.tracking.records import StateRecord

        tensors, record = checkpoint.read_checkpoint(self.folder.checkpoint, StateRecord)
        if record["evaluations"].keys() != set(names):
            theirs = ", ".join(record["evaluations"])
            raise RunError(f"{self.folder.checkpoint} is of other replicas: {theirs}. Choose another --out.")
        parameters, both, targets = (
            {key: value.to(self.pack.device) for key, value in tensors.get(name, {}).items()}
            for name in ("parameters", "moments", "targets")
        )
        moments = {name: (value[:, 0].clone(), value[:, 1].clone()) for name, value in both.items()}
        self.pack.state = PackState(parameters, moments, targets, record["step"])
        step = record["step"]
        self._interval_start, self._evaluated_at = record.get("interval_start", step), record.get("evaluated_at", step)
        self._logged_at = step
        if "interval_start" not in record and any(each.every > 1 for each in self.pack.trained.values()):
            return record  # earlier versions summed losses of what rests, too
        self._interval, self._window = tensors.get("interval", {}), tensors.get("window", {})
        self._logged_at = record.get("logged_at", step)
        self._interval_start = record.get("interval_start", self._logged_at - record.get("interval_steps", 0))
        return record
