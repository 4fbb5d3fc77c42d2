"""One run from start to end: claim the folder, train, choose checkpoints, write what a reader wants to find."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from dqlab.config import gin_files
from dqlab.config.gin_state import bound_value, parameters_read
from dqlab.config.gin_syntax import parse_bindings, rebind_text
from dqlab.config.identity import changed_results
from dqlab.config.replica import Replica
from dqlab.data import Transitions
from dqlab.data.sources import absolute_source
from dqlab.errors import RunError, masked, message_of
from dqlab.files import read_text, write_text
from dqlab.printing import Console
from dqlab.runs.experiment import Experiment, experiment_facts
from dqlab.runs.profile.recorder import ProfileRecorder
from dqlab.tracking.curve import draw_score_curve
from dqlab.tracking.display import Display, about_data, announce_fallback, download_progress, summary_table
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.mlflow.mirror import Mirror
from dqlab.tracking.mlflow.run import ENDED, reopen_run
from dqlab.tracking.run_folder import RunFolder
from dqlab.tracking.settings import Tracking
from dqlab.training import Evaluator, Loop, Pack
from dqlab.training.execution.modes import ExecutionMode, name_of
from dqlab.training.loop import RunCallbacks, no_context
from dqlab.training.model_selection import Evaluated, FailedEvaluation, official_result, select_checkpoints
from dqlab.training.replica_states import ReplicaFailure


def write_own_config(experiment: Experiment, folder: RunFolder, replica: Replica, text: str, execution: str) -> None:
    """A configuration that repeats one replica of a run alone, to the last bit where the device is the same.

    Args:
        experiment, folder, replica: whose.
        text: the run's operative configuration.
        execution: the mode that the run settled on; `auto` might choose another one for a single replica.
    """
    own = {"Experiment.seeds": (replica.seed,), "Training.execution": execution, **replica.bindings}
    if experiment.replicas:
        own |= {"Experiment.replicas": {}, "Experiment.cell": replica.cell}
    write_text(folder.replica(replica.name) / "config.gin", rebind_text(text, own))


def write_replica_results(
    experiment: Experiment,
    folder: RunFolder,
    replica: Replica,
    evaluations: list[Evaluated],
    failed: list[FailedEvaluation],
    known: dict[str, Any],
) -> dict[str, Any]:
    """Summary, learning curve and the official code's result files of one replica.

    Args:
        experiment, folder, replica: whose.
        evaluations, failed: those with a score, of which there is a last one, and those without.
        known: what run.json says.
    """
    chosen = select_checkpoints(evaluations, experiment.plan.offline_rule, experiment.plan.top_k)
    by_step = {evaluation.step: evaluation for evaluation in evaluations}
    untrained = by_step.get(0)
    summary = {
        "seed": replica.seed,
        "cell": replica.cell,
        "points": dict(replica.points),
        "steps": evaluations[-1].step,
        "task": known["task"],
        "algorithm": known["algorithm"],
        "caveat": known["caveat"],
        "scored": known["scored"],
        "physics": known["physics"],
        "selection": {rule: asdict(row) for rule, row in chosen.items()},
        "untrained": untrained.as_dict() if untrained else None,
        "data_return_mean": known["data"]["return_mean"],
        "evaluations": [evaluation.as_dict() for evaluation in evaluations],
        "failed_evaluations": [evaluation.as_dict() for evaluation in failed],
    }
    own = folder.replica(replica.name)
    rules = {"best_online": "online", "offline": "offline"} if known["scored"] else {}  # the official code has scores
    for rule, name in rules.items():
        step = chosen[rule].step
        assert step is not None
        write_text(own / f"best_score_{name}.txt", official_result(by_step[step], name))
    title = " | ".join(part for part in (known["task"], known["algorithm"], replica.title, known["caveat"]) if part)
    draw_score_curve(summary["evaluations"], summary["selection"], title, own / "curve.png", known["scored"])
    write_text(own / "summary.json", json.dumps(summary, indent=1))
    return summary


def prune(folder: RunFolder, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Delete the weights that no selection rule chose."""
    for name, summary in summaries.items():
        kept = {folder.snapshot(name, row["step"]) for row in summary["selection"].values() if row["step"] is not None}
        for path in (folder.replica(name) / "checkpoints").glob("step-*.safetensors"):
            if path not in kept:
                path.unlink()


OnEvent = Callable[[Mapping[str, Any]], None]
"""Told of events, each a dictionary with its name as `event`."""


def ignore_event(event: Mapping[str, Any]) -> None:
    """Whom events are told to where nobody listens."""


@dataclass(frozen=True)
class TrainingCallbacks(RunCallbacks):
    """Passes on what happens in a loop: to the display, to a listener, and how it executes to run.json for a resume.

    Attributes:
        tell: told `progress` (`updates_per_second`), `evaluated` (`scores`: replica -> mean score), `saved`, each with
            its `step`, and `cell_failed` (`replica`, `reason`).
    """

    display: Display
    folder: RunFolder
    experiment: Experiment
    tell: OnEvent = ignore_event

    def on_execution(self, mode: ExecutionMode) -> None:
        """Say how updates are executed, and why."""
        name, configured = name_of(mode), self.experiment.plan.execution
        self.folder.write_facts(execution=name, execution_configured=configured, execution_reason=mode.reason)
        self.display.say(f"execution: {name} ({mode.reason})")
        self.display.say(f"{self.experiment.about_threads}; matrix products: {self.experiment.precision}")
        if mode.preparation:
            self.display.say(mode.preparation)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """Means of the losses."""
        self.display.logged(step, metrics)
        self.tell({"event": "progress", "step": step, "updates_per_second": metrics["updates_per_second"]})

    def on_evaluation(self, step: int, evaluations: dict[str, Evaluated]) -> None:
        """An evaluation."""
        known = [(replica, evaluations.get(replica.name)) for replica in self.experiment.resolved_replicas]
        self.display.evaluated(step, {replica.title: evaluated for replica, evaluated in known if evaluated})
        scores = {name: evaluated.score_mean for name, evaluated in evaluations.items()}
        self.tell({"event": "evaluated", "step": step, "scores": scores})

    def on_failed_evaluation(self, reason: str) -> None:
        """An evaluation without a score."""
        print(f"dqlab: warning: {reason}", file=sys.stderr)

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint."""
        self.tell({"event": "saved", "step": step})

    def on_replica_failure(self, name: str, reason: str) -> None:
        """A replica's failure."""
        self.display.say(f"failed: {reason}")
        self.tell({"event": "cell_failed", "replica": name, "reason": reason})


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: where everything is.
        summaries: of the replicas that were trained to their end, by name.
        failures: of the others.
        facts: what run.json says.
        sent: whether MLflow has all of it; None where it was not asked to.
        profile: what there is to say about a profile, in lines.
    """

    folder: RunFolder
    summaries: dict[str, dict[str, Any]]
    failures: dict[str, ReplicaFailure]
    facts: dict[str, Any]
    sent: bool | None
    profile: Sequence[str] = ()

    def check_complete(self) -> None:
        """See that no replica has failed.

        Raises:
            RunError: some have; the message names them, and the first one's reason.
        """
        titles = [replica.title for replica in self.folder.replicas() if replica.name in self.failures]
        if titles:
            first = next(iter(self.failures.values())).reason
            raise RunError(
                f"{len(titles)} of {len(titles) + len(self.summaries)} replicas failed ({'; '.join(titles)}). {first}"
            )


def train(
    loaded: gin_files.LoadedConfig,
    path: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    console: Console | None = None,
    tell: OnEvent = ignore_event,
    stop: Event | None = None,
    typed: Sequence[str] | None = None,
) -> Finished:
    """Run the experiment that the current gin configuration describes.

    Args:
        loaded: what `configuration.load` returned.
        path: the run's folder.
        resume: continue what is in the folder.
        quiet: no progress.
        profile: record some updates with torch's profiler.
        console: where progress goes.
        tell: told of events: `started` (`step`, `steps`, `execution`), and those of `TrainingCallbacks`.
        stop: when it is set, the run saves its state after the update under way and ends.
        typed: bindings of the command line, which must be read; then gin files are warned of, too. None asks nothing.

    Raises:
        DqlabError: anything the user can mend; nothing in the folder is lost.
        StoppedError: it was asked to stop.
    """
    console = console or Console(quiet=quiet)
    experiment, tracking, folder = Experiment(), Tracking(), RunFolder(path)
    experiment.check()
    evaluator = experiment.evaluator()
    evaluator.stop = stop = stop or Event()
    evaluator.environments.prepare(len(experiment.resolved_replicas) * evaluator.episodes)
    folder.check(resume)
    data = _load_data(experiment, console)
    evaluator.standardised_by = (data.provenance.state_mean, data.provenance.state_std)
    pack = experiment.pack()
    if typed is not None:
        _check_read(loaded, typed)
    folder.lock()
    before: Mapping[str, Any] = folder.facts() if resume and folder.config.exists() else {}
    known = _record(experiment, tracking, folder, data, loaded)
    if before.get("state") in ENDED:  # its last evaluation failed
        reopen_run(path)
    display_of = Display(experiment.plan.steps, known["caveat"], quiet, console, known["scored"])
    with _recording_an_end(folder), display_of as display:
        callbacks = TrainingCallbacks(display, folder, experiment, tell)
        loop = _make_ready(pack, data, evaluator, callbacks, before, stop)
        mirror = Mirror(path, known["mlflow_experiment"]) if tracking.mlflow else None
        recorder = ProfileRecorder(pack, loop.plan, name_of(loop.mode), folder.profile) if profile else None
        loop.run(recorder.record_update if recorder else no_context)
    summaries = {
        replica.name: write_replica_results(
            experiment,
            folder,
            replica,
            loop.states.evaluations[replica.name],
            loop.states.failed_evaluations[replica.name],
            known,
        )
        for replica in experiment.resolved_replicas
        if replica.name not in loop.states.failed
    }
    if not tracking.keep_checkpoints:
        prune(folder, summaries)
    folder.write_facts(state="finished" if summaries else "failed")
    sent = mirror.close(tracking.patience) if mirror else None
    about = _about_profile(recorder) if recorder else ()
    finished = Finished(folder, summaries, loop.states.failed, known, sent, about)
    if not summaries:
        finished.check_complete()
    return finished


@contextmanager
def _recording_an_end(folder: RunFolder) -> Iterator[None]:
    """Training that ends early says in run.json how."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError, RunError):
            folder.write_facts(state="interrupted", reason=message_of(error) or type(error).__name__)
        raise


def _make_ready(
    pack: Pack,
    data: Transitions,
    evaluator: Evaluator,
    callbacks: TrainingCallbacks,
    before: Mapping[str, Any],
    stop: Event | None,
) -> Loop:
    """The loop, its update compiled or captured where that is how it is executed; at its checkpoint if it goes on.

    `before` is run.json of the run that is continued, or empty.
    """
    experiment, folder, started = callbacks.experiment, callbacks.folder, time.monotonic()
    loop = Loop(
        experiment.plan,
        pack,
        data,
        experiment.resolved_replicas,
        evaluator.roll_out,
        experiment.resolved_task,
        folder,
        callbacks,
        experiment.mode(before),
        bool(before),
        stop,
    )
    callbacks.display.say(f"ready after {time.monotonic() - started:.0f} s")
    if loop.step:
        callbacks.display.say(f"resuming at step {loop.step:,}")
    execution, text = name_of(loop.mode), read_text(folder.config)
    for replica in experiment.resolved_replicas:
        write_own_config(experiment, folder, replica, text, execution)
    callbacks.tell({"event": "started", "step": loop.step, "steps": experiment.plan.steps, "execution": execution})
    return loop


def _about_profile(recorder: ProfileRecorder) -> Sequence[str]:
    """What the end of a run says about its profile; a warning where there is none."""
    if complaint := recorder.complaint():
        print(f"dqlab: warning: {complaint}.", file=sys.stderr)
    return recorder.lines()


def _load_data(experiment: Experiment, console: Console) -> Transitions:
    """The dataset; where it is the one that ships with dqlab, that is said so that it can't be missed."""
    loud = Console(stderr=True) if console.quiet else console
    with download_progress(loud) as progress:
        data = experiment.data(progress)
    if data.provenance.stand_in:
        announce_fallback(loud, experiment.task, data.provenance)
    else:
        console.print(about_data(data.provenance), soft_wrap=True, highlight=False)
    return data


def _check_read(loaded: gin_files.LoadedConfig, typed: Sequence[str]) -> None:
    """Everything has been built and has read what it reads: refuse, or warn of, what nothing has read."""
    known = parameters_read()
    gin_files.check_parameters_read(typed, known)
    for line in gin_files.unread_warnings(loaded, known):
        print(f"dqlab: warning: {line}", file=sys.stderr)


def _record(
    experiment: Experiment, tracking: Tracking, folder: RunFolder, data: Transitions, loaded: gin_files.LoadedConfig
) -> dict[str, Any]:
    """Write config.gin and run.json, after checking that a resumed run is the same; returns what run.json says."""
    text = rebind_text(gin_files.operative_text(loaded), _absolute_paths())
    _check_config(folder, text, data.provenance.digest)
    known = experiment_facts(experiment, data, loaded)
    known |= {"parameters": parse_bindings(text), "mlflow_experiment": tracking.experiment or experiment.task}
    if tracking.mlflow:
        known |= {"mlflow_uri": masked(tracking_uri(folder.path))}
    folder.write_facts(**known, state="running", reason="")
    write_text(folder.config, text)
    return known


def _absolute_paths() -> dict[str, Any]:
    """What names files and folders of the data, as it does from any folder."""
    names = {name: f"data.load_dataset.{name}" for name in ("sources", "map_dir")}
    sources, folder = (bound_value(name) for name in names.values())
    sources = (sources,) if isinstance(sources, str) else tuple(sources or ())
    found = {
        "sources": tuple(map(absolute_source, sources)),
        "map_dir": str(Path(folder or "").expanduser().absolute()),
    }
    return {names[name]: found[name] for name, given in (("sources", sources), ("map_dir", folder)) if given}


def _check_config(folder: RunFolder, text: str, digest: str) -> None:
    """A resumed run must be the same experiment on the same data."""
    if not folder.config.exists():
        return
    found = changed_results(parse_bindings(read_text(folder.config)), parse_bindings(text))
    before = folder.facts()["data"]["digest"]
    if before != digest:
        found.append(f"dataset: SHA-256 {before} before, {digest} now")
    if found:
        raise RunError(f"{folder.path} cannot be resumed with another configuration: {'; '.join(found)}.")


def print_finished(finished: Finished) -> None:
    """The table of scores, and where everything is."""
    console = Console()
    folder, facts = finished.folder, finished.facts
    titles = {replica.name: replica.title for replica in folder.replicas()}
    summaries = {titles[name]: summary for name, summary in finished.summaries.items()}
    failures = {titles[name]: failure.step for name, failure in finished.failures.items()}
    console.print(summary_table(summaries, facts["data"], facts["caveat"], failures, facts["scored"]))
    for name in finished.summaries:
        console.print(f"Learning curve: {folder.replica(name) / 'curve.png'}", soft_wrap=True)
    console.print(f"Run:            {folder.path}", soft_wrap=True)
    for line in finished.profile:
        console.print(line, soft_wrap=True)
    if finished.sent is None:
        return
    console.print(f"MLflow:         {_how_to_open(masked(tracking_uri(folder.path)))}", soft_wrap=True)


def _how_to_open(uri: str) -> str:
    """The command that shows a local store, as it can be pasted here; a server's address as it is."""
    if not uri.startswith("sqlite"):
        return uri
    command = f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {shlex.quote(uri)}"
    return command.replace(f"{Path.cwd()}/", "")
