"""One run from start to end: claim the folder, train, choose checkpoints, write what a reader wants to find."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from dqlab import configuration
from dqlab.console import Console
from dqlab.data.sources import absolute
from dqlab.data.transitions import Transitions
from dqlab.errors import RunError, message_of
from dqlab.evaluation import Evaluator
from dqlab.experiment import Experiment, facts
from dqlab.files import read_text, write_text
from dqlab.finishing import finish_replica, prune, write_own_config
from dqlab.printing import masked
from dqlab.run_folder import RunFolder
from dqlab.tracking.display import Display, about_data, announce_fallback, download_progress
from dqlab.tracking.mirror import Mirror
from dqlab.tracking.mlflow import ENDED, reopen, tracking_uri
from dqlab.tracking.settings import Tracking
from dqlab.training.execution import name_of
from dqlab.training.loop import Loop
from dqlab.training.pack import Pack
from dqlab.training.standing import Failure
from dqlab.watch import Tell, Watch, nobody

if TYPE_CHECKING:
    from dqlab.profiling.recorder import Recorder

WITHOUT_EFFECT = (
    "Tracking.mlflow",
    "Tracking.patience",
    "Tracking.experiment",
    "Tracking.keep_checkpoints",
    "Training.checkpoint_seconds",
    "Training.execution",
    "Experiment.threads",
    "load_dataset.sources",
    "load_dataset.memory_map",
    "load_dataset.map_dir",
    "d4rl_download.mirrors",
    "d4rl_download.mirrors_first",
    "import_path.folders",
)
"""What a resumed run may change: its results do not depend on it (on execution and threads, in their last bits; and
instead of where the dataset comes from, its digest is compared)."""


LATER = {
    "Experiment.env_backend": "gymnasium",
    "load_dataset.action_bounds": "unit",
    "DPMSolverPP.quadratic_weight": 1.0,
    "FQL.joint_update": False,
    "EDP.joint_update": False,
    "EDP.clips_members": False,
    "IDQL.weight_decay": 0.0,
    "LNResnet.norm_eps": 1e-5,
    "MLPDenoiser.time_endpoint": True,
    "MMDQL.match_noise_clip": 0.0,
    "MMDQL.multiplier_spread": 0.0,
    "MeanEnsemble.norm_after": False,
    "MeanEnsemble.norm_eps": 1e-5,
    "Perturbation.activation": "mish",
    "TQC.norm_after": False,
    "TQC.norm_eps": 1e-5,
}
"""Parameters that came after runs were stored, with the value at which those ran."""

UNSTORED = {**LATER, "patience.tolerance": 5, "patience.min_delta": 0.0, "last_two.initial": 100.0}
"""The same, with those that were once read too late to be stored."""


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
    failures: dict[str, Failure]
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
    loaded: configuration.Loaded,
    path: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    console: Console | None = None,
    tell: Tell = nobody,
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
        tell: told of events: `started` (`step`, `steps`, `execution`), and those of `Watch`.
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
    evaluator.environments.prepare(len(experiment.the_replicas) * evaluator.episodes)
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
        reopen(path)
    display_of = Display(experiment.plan.steps, known["caveat"], quiet, console, known["scored"])
    with _recording_an_end(folder), display_of as display:
        watch = Watch(display, folder, experiment, tell)
        loop = _make_ready(pack, data, evaluator, watch, before, stop)
        mirror = Mirror(path, known["mlflow_experiment"]) if tracking.mlflow else None
        recorder = _watch(loop, folder) if profile else None
        loop.run()
    summaries = {
        replica.name: finish_replica(
            experiment, folder, replica, loop.evaluations[replica.name], loop.failed_evaluations[replica.name], known
        )
        for replica in experiment.the_replicas
        if replica.name not in loop.standing.failed
    }
    if not tracking.keep_checkpoints:
        prune(folder, summaries)
    folder.write_facts(state="finished" if summaries else "failed")
    sent = mirror.close(tracking.patience) if mirror else None
    about = _about_profile(recorder) if recorder else ()
    finished = Finished(folder, summaries, loop.standing.failed, known, sent, about)
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
    pack: Pack, data: Transitions, evaluator: Evaluator, watch: Watch, before: Mapping[str, Any], stop: Event | None
) -> Loop:
    """The loop, its update compiled or captured where that is how it is executed; at its checkpoint if it goes on.

    `before` is run.json of the run that is continued, or empty.
    """
    experiment, folder, started = watch.experiment, watch.folder, time.monotonic()
    loop = Loop(
        experiment.plan,
        pack,
        data,
        experiment.the_replicas,
        evaluator.roll_out,
        experiment.the_task,
        folder,
        watch,
        experiment.mode(before),
        bool(before),
        stop,
    )
    watch.display.say(f"ready after {time.monotonic() - started:.0f} s")
    if loop.step:
        watch.display.say(f"resuming at step {loop.step:,}")
    execution, text = name_of(loop.mode), read_text(folder.config)
    for replica in experiment.the_replicas:
        write_own_config(experiment, folder, replica, text, execution)
    watch.tell({"event": "started", "step": loop.step, "steps": experiment.plan.steps, "execution": execution})
    return loop


def _watch(loop: Loop, folder: RunFolder) -> Recorder:
    """Record some of the updates to come."""
    from dqlab.profiling.recorder import Recorder

    recorder = Recorder(loop.advance, loop.pack, loop.plan, name_of(loop.mode), folder.profile)
    loop.advance = recorder
    return recorder


def _about_profile(recorder: Recorder) -> Sequence[str]:
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


def _check_read(loaded: configuration.Loaded, typed: Sequence[str]) -> None:
    """Everything has been built and has read what it reads: refuse, or warn of, what nothing has read."""
    known = configuration.read()
    configuration.check_read(typed, known)
    for line in configuration.unread(loaded, known):
        print(f"dqlab: warning: {line}", file=sys.stderr)


def _record(
    experiment: Experiment, tracking: Tracking, folder: RunFolder, data: Transitions, loaded: configuration.Loaded
) -> dict[str, Any]:
    """Write config.gin and run.json, after checking that a resumed run is the same; returns what run.json says."""
    text = configuration.rebound(configuration.operative_text(loaded), _absolute_paths())
    _check_config(folder, text, data.provenance.digest)
    known = facts(experiment, data, loaded)
    known |= {"parameters": configuration.flat(text), "mlflow_experiment": tracking.experiment or experiment.task}
    if tracking.mlflow:
        known |= {"mlflow_uri": masked(tracking_uri(folder.path))}
    folder.write_facts(**known, state="running", reason="")
    write_text(folder.config, text)
    return known


def _absolute_paths() -> dict[str, Any]:
    """What names files and folders of the data, as it does from any folder."""
    names = {name: f"data.load_dataset.{name}" for name in ("sources", "map_dir")}
    sources, folder = (configuration.value(name) for name in names.values())
    sources = (sources,) if isinstance(sources, str) else tuple(sources or ())
    found = {"sources": tuple(map(absolute, sources)), "map_dir": str(Path(folder or "").expanduser().absolute())}
    return {names[name]: found[name] for name, given in (("sources", sources), ("map_dir", folder)) if given}


def _check_config(folder: RunFolder, text: str, digest: str) -> None:
    """A resumed run must be the same experiment on the same data."""
    if not folder.config.exists():
        return
    found = configuration.differences(read_text(folder.config), text, WITHOUT_EFFECT, UNSTORED)
    before = folder.facts()["data"]["digest"]
    if before != digest:
        found.append(f"dataset: SHA-256 {before} before, {digest} now")
    if found:
        raise RunError(f"{folder.path} cannot be resumed with another configuration: {'; '.join(found)}.")
