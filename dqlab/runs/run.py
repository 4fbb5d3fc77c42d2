"""One run from start to end: prepare, claim the folder, train, write what a reader wants to find.

What it writes of itself is how it came about (run.json, config.gin), and what each replica ended with.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from dqlab.config import gin_files
from dqlab.config.gin_files import parse_bindings, rebind_text
from dqlab.config.gin_state import bound_value, parameters_read
from dqlab.config.identity import SOURCES, Replica, changed_results
from dqlab.config.plugins import changed_sources, plugin_sources
from dqlab.data.sources import absolute_source
from dqlab.data.transitions import Transitions
from dqlab.errors import PACKAGE, RunError, masked, message_of
from dqlab.files import read_text, write_text
from dqlab.machine import attempt_command, cores, package_version
from dqlab.printing import Console
from dqlab.runs.experiment import (
    Experiment,
    Tracking,
    build_evaluator,
    build_pack,
    check_experiment,
    execution_mode,
    load_data,
)
from dqlab.runs.profile import ProfileRecorder
from dqlab.tracking import display
from dqlab.tracking.mlflow.client import beside_uri, store_path, tracking_uri
from dqlab.tracking.mlflow.sync import Mirror
from dqlab.tracking.run_folder import RunFolder
from dqlab.training import Loop
from dqlab.training.execution.modes import ExecutionMode, name_of
from dqlab.training.loop import RunCallbacks
from dqlab.training.model_selection import ReplicaStates, official_result, select_checkpoints

if TYPE_CHECKING:
    from dqlab.tracking.records import EvaluationRecord, FailedRecord
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
        self.preparation = ""  # what making a program ready takes, in words

    def prepare(self, resume: bool, stop: Event) -> None:
        """Everything that training needs, what costs least first, so that mistakes show early; nothing is written."""
        check_experiment(self.experiment)
        self.evaluator.stop = stop
        self.evaluator.environments.prepare(len(self.experiment.resolved_replicas) * self.evaluator.episodes)
        self.folder.check(resume)
        loud = Console(stderr=True) if self.console.quiet else self.console
        with display.download_progress(loud) as progress:
            self.data = load_data(self.experiment, progress)
        if self.data.provenance.stand_in:
            display.announce_fallback(loud, self.experiment.task, self.data.provenance)
        else:
            self.console.print(display.about_data(self.data.provenance), soft_wrap=True, highlight=False)
        self.evaluator.standardised_by = (self.data.provenance.state_mean, self.data.provenance.state_std)
        self.pack = build_pack(self.experiment)

    def claim(self, resume: bool) -> None:
        """Lock the folder, and write config.gin and run.json there, once a resumed run is seen to be the same."""
        folder, tracking = self.folder, self.tracking
        folder.lock()
        if resume and folder.config.exists():
            self.before = {**folder.facts()}
        sources = bound_value(SOURCES) or ()
        sources = (sources,) if isinstance(sources, str) else sources
        absolute = {SOURCES: tuple(map(absolute_source, sources))} if sources else {}  # as it does from any folder
        text = rebind_text(gin_files.operative_text(self.loaded), absolute)
        parameters, digest = parse_bindings(text), self.data.provenance.digest
        if folder.config.exists():  # what is resumed must be the same experiment on the same data
            found = changed_results(parse_bindings(read_text(folder.config)), parameters)
            before = folder.facts()["data"]["digest"]
            found += [f"dataset: SHA-256 {before} before, {digest} now"] if before != digest else []
            if found:
                raise RunError(f"{folder.path} cannot be resumed with another configuration: {'; '.join(found)}.")
        self.facts = experiment_facts(self.experiment, self.data, self.loaded)
        self.facts |= {"parameters": parameters, "mlflow_experiment": tracking.experiment or self.experiment.task}
        if tracking.mlflow:
            self.facts |= {"mlflow_uri": masked(tracking_uri(folder.path))}
        folder.write_facts(**self.facts, state="running", reason="")
        write_text(folder.config, text)
        for name in changed_sources(self.before, self.facts["plugin_sources"]):
            self.on_warning(f"{name} has changed since the run began: from here on it trains with what it is now.")

    def train(self, quiet: bool, profile: bool) -> Loop:
        """All updates and evaluations; training that ends early says in run.json how."""
        plan, folder = self.experiment.plan, self.folder
        self.display = display.Display(plan.steps, self.facts["caveat"], quiet, self.console, self.facts["scored"])
        try:
            with self.display:
                if len(phases := self.pack.stretches(range(plan.steps))) > 1:
                    for each in phases:
                        trained = ", ".join(self.pack.trained_at(each.start))
                        self.display.say(f"updates {each.start + 1:,} to {each.stop:,} train: {trained}")
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
        """The loop, ready to execute its update, and at its checkpoint if the run goes on.

        Replicas get configurations that repeat each alone, to the last bit where the device is the same.
        """
        experiment, folder, started = self.experiment, self.folder, time.monotonic()
        plan, replicas, mode = experiment.plan, experiment.resolved_replicas, execution_mode(experiment, self.before)
        loop = Loop(plan, self.pack, self.data, replicas, self.evaluator, folder, self, mode, bool(self.before))
        self.display.say(f"ready after {time.monotonic() - started:.0f} s")
        if self.before:
            self.display.say(f"resuming at step {loop.step:,}")
        execution, text = name_of(loop.mode), read_text(folder.config)
        for replica in replicas:  # by `execution`: `auto` might choose another one for a single replica
            own = {"Experiment.seeds": (replica.seed,), "Training.execution": execution, **replica.bindings}
            if experiment.replicas:
                own |= {"Experiment.replicas": {}, "Experiment.cell": replica.cell}
            write_text(folder.replica(replica.name) / "config.gin", rebind_text(text, own))
        self.tell({"event": "started", "step": loop.step, "steps": plan.steps, "execution": execution})
        return loop

    def finish(self, loop: Loop) -> TrainingResult:
        """Results of replicas trained to their end, a RunError where there are none; MLflow gets what is kept."""
        states, folder, summaries = loop.states, self.folder, {}
        for replica in self.experiment.resolved_replicas:
            if replica.name not in states.failed:
                summaries[replica.name] = self._write_results(replica, states)
        if not self.tracking.keep_checkpoints:
            for name, summary in summaries.items():  # weights that no selection rule chose, nor an evaluation lost
                chosen = {row["step"] for row in summary["selection"].values()} - {None}
                chosen |= {row["step"] for row in summary["failed_evaluations"]}
                kept = {folder.snapshot(name, step) for step in chosen}
                for path in set((folder.replica(name) / "checkpoints").glob("step-*.safetensors")) - kept:
                    path.unlink()
        folder.write_facts(state="finished" if summaries else "failed")
        sent = self.mirror.close(self.tracking.patience) if self.mirror else None
        about = self.recorder.lines() if self.recorder else ()
        finished = TrainingResult(folder, summaries, states.failed, self.facts, sent, about)
        if not summaries:
            finished.check_complete()
        return finished

    def _write_results(self, replica: Replica, states: ReplicaStates) -> dict[str, Any]:
        """One replica's summary, curve and result files, by its evaluations, one of them at least with a score."""
        evaluations, plan, known = states.evaluations[replica.name], self.experiment.plan, self.facts
        chosen = select_checkpoints(evaluations, plan.offline_rule, plan.top_k)
        by_step: dict[int | None, EvaluationRecord] = {each["step"]: each for each in evaluations}
        summary = {
            "seed": replica.seed,
            "cell": replica.cell,
            "points": dict(replica.points),
            "steps": evaluations[-1]["step"],
            **{name: known[name] for name in ("task", "algorithm", "caveat", "scored", "physics")},
            "selection": chosen,
            "untrained": by_step.get(0),
            "data_return_mean": known["data"]["return_mean"],
            "evaluations": evaluations,
            "failed_evaluations": states.failed_evaluations[replica.name],
        }
        own = self.folder.replica(replica.name)
        # files of the official code's, which has scores
        rules = {"best_online": "online", "offline": "offline"} if known["scored"] else {}
        for rule, name in rules.items():
            write_text(own / f"best_score_{name}.txt", official_result(by_step[chosen[rule]["step"]], name))
        title = " | ".join(filter(None, (known["task"], known["algorithm"], replica.title, known["caveat"])))
        display.draw_score_curve(evaluations, chosen, title, own / "curve.png", known["scored"])
        write_text(own / "summary.json", json.dumps(summary, indent=1))
        return summary

    def on_execution(self, mode: ExecutionMode) -> None:
        name, experiment, plan = name_of(mode), self.experiment, self.experiment.plan
        self.folder.write_facts(execution=name, execution_configured=plan.execution, execution_reason=mode.reason)
        self.display.say(f"execution: {name} ({mode.reason})")
        why = "as configured" if experiment.threads else f"by size: updates of {plan.batch_size} rows"
        threads = f"{experiment.resolved_threads} of {cores()} cores ({why})"
        self.display.say(f"threads: {threads}; matrix products: {experiment.precision}")
        self.preparation = mode.preparation
        if mode.preparation:
            self.display.say(mode.preparation)

    def on_phase(self, step: int) -> None:
        self.display.say("; ".join(filter(None, (f"step {step:,}: the next phase", self.preparation))))

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


def experiment_facts(experiment: Experiment, data: Transitions, loaded: gin_files.LoadedConfig) -> dict[str, Any]:
    """What the record of a run says about it: tags, not parameters."""
    provenance, task, device = data.provenance, experiment.resolved_task, experiment.resolved_device
    score = None if task.measures_success else task.score(provenance.return_mean)
    name, plan = platform.processor() or platform.machine(), experiment.plan
    schedule = experiment.resolved_algorithm.lr_schedule
    packages = ("dqlab", "torch", "numpy", "gin-config", "gymnasium", "mujoco", "mlflow", task.benchmark)
    return {
        **{name: getattr(experiment, name) for name in ("task", "algorithm", "cell", "env_backend", "precision")},
        "seeds": sorted({replica.seed for replica in experiment.resolved_replicas}),
        "replicas": {replica.name: replica.as_dict() for replica in experiment.resolved_replicas},
        "physics": experiment.stepped_by,
        "device": str(device),
        "threads": experiment.resolved_threads,
        "device_name": name if device.type == "cpu" else torch.cuda.get_device_name(device),
        "variants": {"lr_schedule": schedule, "offline_rule": plan.offline_rule, "early_stop": plan.early_stop},
        "data": {**asdict(provenance), "score_mean": score},
        "caveat": "; ".join(filter(None, (provenance.caveat, task.caveat, task.condition))),
        "scored": task.scored,
        "versions": {name: package_version(name) for name in packages if name} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "gin_files": [str(path) for path in loaded.files],
        "plugins": loaded.imports,
        "plugin_sources": plugin_sources(),
    }


def _git_commit() -> str:
    """The commit of the code that runs, with '+changes' if it is not exactly that; empty outside a checkout."""
    questions = ("ls-files __init__.py", "rev-parse HEAD", "status --porcelain -- .")
    asked = [["git", "-C", str(PACKAGE), *question.split()] for question in questions]
    known, commit, changes = (attempt_command(command, timeout=30.0) for command in asked)
    if not known.output or commit.trouble or changes.trouble:
        return ""
    return commit.output.strip() + ("+changes" if changes.output else "")


@dataclass(frozen=True)
class TrainingResult:
    """A finished run: summaries or failures by replica, run.json, whether MLflow has all (None: unasked), a profile."""

    folder: RunFolder
    summaries: dict[str, dict[str, Any]]
    failures: dict[str, FailedRecord]
    facts: dict[str, Any]
    sent: bool | None
    profile: Sequence[str] = ()

    def check_complete(self) -> None:
        """Raise a RunError if replicas have failed, which names them, and the first one's reason."""
        if titles := [replica.title for replica in self.folder.replicas() if replica.name in self.failures]:
            first, several = next(iter(self.failures.values()))["reason"], len(titles) + len(self.summaries)
            raise RunError(f"{len(titles)} of {several} replicas failed ({'; '.join(titles)}). {first}")


def print_finished(finished: TrainingResult) -> None:
    """The table of scores, and where everything is."""
    console = Console()
    folder, facts = finished.folder, finished.facts
    titles = {replica.name: replica.title for replica in folder.replicas()}
    summaries = {titles[name]: summary for name, summary in finished.summaries.items()}
    failures = {titles[name]: failure["step"] for name, failure in finished.failures.items()}
    console.print(display.summary_table(summaries, facts["data"], facts["caveat"], failures, facts["scored"]))
    lines = [f"Learning curve: {folder.replica(name) / 'curve.png'}" for name in finished.summaries]
    lines += [f"Run:            {folder.path}", *finished.profile]
    if finished.sent is not None:
        uri = masked(tracking_uri(folder.path))
        local, beside = store_path(uri), store_path(beside_uri(folder.path))
        program, here = Path(sys.executable).with_name("dqlab"), Path.cwd()
        if shutil.which("dqlab") or not program.exists():
            program = Path("dqlab")
        elif program.is_relative_to(here):
            program = program.relative_to(here)
        command = f"{program} ui {shlex.quote(str(folder.path) if local == beside else uri)}"
        lines.append(f"MLflow:         {command if local else uri}")
    for line in lines:
        console.print(line, soft_wrap=True)
