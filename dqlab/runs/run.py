"""One run from start to end: prepare, claim the folder, train, write what a reader wants to find."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from dqlab.config import gin_files
from dqlab.config.gin_state import parameters_read
from dqlab.config.plugins import changed_sources
from dqlab.errors import RunError, message_of
from dqlab.machine import cores
from dqlab.printing import Console
from dqlab.runs.build import build_evaluator, build_pack, check_experiment, execution_mode, load_data
from dqlab.runs.experiment import Experiment, Tracking
from dqlab.runs.profile import ProfileRecorder
from dqlab.runs.records import TrainingResult, prune, write_own_configs, write_record, write_replica_results
from dqlab.tracking.display import Display, about_data, announce_fallback, download_progress
from dqlab.tracking.mlflow.sync import Mirror
from dqlab.tracking.run_folder import RunFolder
from dqlab.training import Loop
from dqlab.training.execution.modes import ExecutionMode, name_of
from dqlab.training.loop import RunCallbacks

if TYPE_CHECKING:
    from dqlab.tracking.records import EvaluationRecord
OnEvent = Callable[[Mapping[str, Any]], None]  # told of events, each a dictionary with its name as `event`


def train(
    loaded: gin_files.LoadedConfig,
    path: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    console: Console | None = None,
    tell: OnEvent = lambda event: None,
    stop: Event | None = None,
    typed: Sequence[str] | None = None,
) -> TrainingResult:
    """Run the experiment that the current gin configuration describes.

    Args:
        loaded: what `gin_files.load_gin` returned.
        path: the run's folder; `resume` continues what is in it.
        profile: record some updates with torch's profiler.
        console: where progress goes, unless `quiet`.
        tell: told of events: `started` (`step`, `steps`, `execution`), `progress` (`updates_per_second`), `evaluated`
            (`scores`: replica -> mean score), `saved`, each with its `step`, and `cell_failed` (`replica`, `reason`).
        stop: when it is set, the run saves its state after the update under way and ends.
        typed: bindings of the command line, which must be read; then gin files are warned of, too. None asks nothing.

    Raises:
        DqlabError: anything the user can mend; nothing in the folder is lost.
        StoppedError: it was asked to stop.
    """
    run = _RunUnderWay(loaded, path, console or Console(quiet=quiet), tell)
    try:
        run.prepare(resume, stop or Event())
        if typed is not None:  # everything has been built, and has read what it reads
            known = parameters_read()
            gin_files.check_parameters_read(typed, known)
            for line in gin_files.unread_warnings(loaded, known):
                run.on_warning(line)
        run.claim(resume)
        return run.finish(run.train(quiet, profile))
    finally:
        run.folder.release()
        run.evaluator.close()


def new_run_folder(stem: str) -> Path:
    """A folder that no other run has: runs/STEM-TIME-PROCESS here."""
    path = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return path if not path.exists() else new_run_folder(f"{stem}-again")


class _RunUnderWay(RunCallbacks):
    """A run under way, which the loop calls. The loop is no attribute: each would keep the other and the data alive."""

    def __init__(self, loaded: gin_files.LoadedConfig, path: Path, console: Console, tell: OnEvent) -> None:
        self.loaded, self.folder, self.console, self.tell = loaded, RunFolder(path), console, tell
        self.experiment, self.tracking = Experiment(), Tracking()
        self.evaluator = build_evaluator(self.experiment)
        self.before: Mapping[str, Any] = {}  # run.json of a run that is continued
        self.mirror: Mirror | None = None
        self.recorder: ProfileRecorder | None = None

    def prepare(self, resume: bool, stop: Event) -> None:
        """Everything that training needs, what costs least first, so that mistakes show early; nothing is written."""
        check_experiment(self.experiment)
        self.evaluator.stop = stop
        self.evaluator.environments.prepare(len(self.experiment.resolved_replicas) * self.evaluator.episodes)
        self.folder.check(resume)
        loud = Console(stderr=True) if self.console.quiet else self.console
        with download_progress(loud) as progress:
            self.data = load_data(self.experiment, progress)
        if self.data.provenance.stand_in:
            announce_fallback(loud, self.experiment.task, self.data.provenance)
        else:
            self.console.print(about_data(self.data.provenance), soft_wrap=True, highlight=False)
        self.evaluator.standardised_by = (self.data.provenance.state_mean, self.data.provenance.state_std)
        self.pack = build_pack(self.experiment)

    def claim(self, resume: bool) -> None:
        """Lock the folder, and write there what is run."""
        self.folder.lock()
        if resume and self.folder.config.exists():
            self.before = {**self.folder.facts()}
        self.facts = write_record(self.experiment, self.tracking, self.folder, self.data, self.loaded)
        for name in changed_sources(self.before, self.facts["plugin_sources"]):
            self.on_warning(f"{name} has changed since the run began: from here on it trains with what it is now.")

    def train(self, quiet: bool, profile: bool) -> Loop:
        """All updates and evaluations; training that ends early says in run.json how."""
        plan, folder = self.experiment.plan, self.folder
        self.display = Display(plan.steps, self.facts["caveat"], quiet, self.console, self.facts["scored"])
        try:
            with self.display:
                loop = self._build_loop()
                if self.tracking.mlflow:
                    self.mirror = Mirror(folder.path, self.facts["mlflow_experiment"])
                if profile:
                    self.recorder = ProfileRecorder(self.pack, plan, name_of(loop.mode), folder.profile)
                loop.run(self.recorder.record_update if self.recorder else nullcontext)
        except BaseException as error:
            with suppress(OSError, RunError):
                folder.write_facts(state="interrupted", reason=message_of(error) or type(error).__name__)
            raise
        return loop

    def _build_loop(self) -> Loop:
        """The loop, ready to execute its update, and at its checkpoint if the run goes on."""
        experiment, folder, started = self.experiment, self.folder, time.monotonic()
        plan, replicas, mode = experiment.plan, experiment.resolved_replicas, execution_mode(experiment, self.before)
        loop = Loop(plan, self.pack, self.data, replicas, self.evaluator, folder, self, mode, bool(self.before))
        self.display.say(f"ready after {time.monotonic() - started:.0f} s")
        if loop.step:
            self.display.say(f"resuming at step {loop.step:,}")
        execution = name_of(loop.mode)
        write_own_configs(experiment, folder, execution)
        self.tell({"event": "started", "step": loop.step, "steps": plan.steps, "execution": execution})
        return loop

    def finish(self, loop: Loop) -> TrainingResult:
        """Results of replicas trained to their end, a RunError where there are none; MLflow gets what is kept."""
        states, folder, summaries = loop.states, self.folder, {}
        for replica in self.experiment.resolved_replicas:
            if replica.name not in states.failed:
                summaries[replica.name] = write_replica_results(self.experiment, folder, replica, states, self.facts)
        if not self.tracking.keep_checkpoints:
            prune(folder, summaries)
        folder.write_facts(state="finished" if summaries else "failed")
        sent = self.mirror.close(self.tracking.patience) if self.mirror else None
        about = self.recorder.lines() if self.recorder else ()
        finished = TrainingResult(folder, summaries, states.failed, self.facts, sent, about)
        if not summaries:
            finished.check_complete()
        return finished

    def on_execution(self, mode: ExecutionMode) -> None:
        name, experiment, plan = name_of(mode), self.experiment, self.experiment.plan
        self.folder.write_facts(execution=name, execution_configured=plan.execution, execution_reason=mode.reason)
        self.display.say(f"execution: {name} ({mode.reason})")
        why = "as configured" if experiment.threads else f"by size: updates of {plan.batch_size} rows"
        threads = f"{experiment.resolved_threads} of {cores()} cores ({why})"
        self.display.say(f"threads: {threads}; matrix products: {experiment.precision}")
        if mode.preparation:
            self.display.say(mode.preparation)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        self.display.logged(step, metrics)
        self.tell({"event": "progress", "step": step, "updates_per_second": metrics["updates_per_second"]})

    def on_evaluation(self, step: int, evaluations: dict[str, EvaluationRecord]) -> None:
        titles = {replica.name: replica.title for replica in self.experiment.resolved_replicas}
        self.display.evaluated(step, {titles[name]: evaluated for name, evaluated in evaluations.items()})
        scores = {name: evaluated["score_mean"] for name, evaluated in evaluations.items()}
        self.tell({"event": "evaluated", "step": step, "scores": scores})

    def on_warning(self, text: str) -> None:
        with suppress(OSError):  # a terminal that has gone
            print(f"dqlab: warning: {text}", file=sys.stderr)

    def on_checkpoint(self, step: int) -> None:
        self.tell({"event": "saved", "step": step})

    def on_replica_failure(self, name: str, reason: str) -> None:
        self.display.say(f"failed: {reason}")
        self.tell({"event": "cell_failed", "replica": name, "reason": reason})
