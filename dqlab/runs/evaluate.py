"""Loading what was trained, a run's checkpoints or the official code's; evaluating it; printing the table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from dqlab.config import gin_files
from dqlab.config.gin_state import abbreviate_names, bound_parameters, parameters_read
from dqlab.config.replica import Replica
from dqlab.data.transitions import caveat_of
from dqlab.envs.caveats import score_or_return
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError
from dqlab.printing import Console
from dqlab.runs.build import build_evaluator, build_pack, check_experiment, execution_mode
from dqlab.runs.experiment import Experiment
from dqlab.runs.official import OfficialCheckpoint, load_checkpoint
from dqlab.runs.video import VideoRecorder
from dqlab.tracking import RunFolder
from dqlab.tracking.selection_rules import CHECKPOINT_RULES
from dqlab.training import Evaluator, Pack, checkpoint
from dqlab.training.model_selection import EvaluationEpisodes

if TYPE_CHECKING:
    from dqlab.tracking.records import RunRecord

SCHEDULE = ("DiffusionPolicy.n_timesteps", "DiffusionPolicy.schedule")


class CheckpointEvaluation(NamedTuple):
    """The episodes of one replica's checkpoint, and the updates after which it was written."""

    replica: Replica
    step: int
    episodes: EvaluationEpisodes


@dataclass
class RunEvaluation:
    """The evaluation of a run's checkpoints: those that gave episodes, and why others did not.

    Attributes:
        experiment: the run's configuration.
        caveat: what must stand beside its scores.
        rows, failed: one a checkpoint, in either.
    """

    experiment: Experiment
    caveat: str
    rows: list[CheckpointEvaluation] = field(default_factory=list)
    failed: list[RunError] = field(default_factory=list)

    def check_complete(self) -> None:
        """See that no evaluation has failed.

        Raises:
            RunError: one has: the first one's reason.
        """
        if self.failed:
            raise self.failed[0]


def evaluate_run(
    path: Path,
    which: str,
    seed: int | None,
    episodes: int | None,
    bindings: Sequence[str] = (),
    video: Path | None = None,
) -> None:
    """Evaluate as `evaluate_checkpoints` does, and print the table; a video goes to the replica's folder and to MLflow.

    Raises:
        RunError: no such run, replica or checkpoint; or an evaluation has failed, once the others are printed.
        ConfigError: a video is wanted and cannot be made here.
    """
    evaluated = evaluate_checkpoints(path, which, seed, episodes, bindings, video)
    experiment = evaluated.experiment
    title = f"{experiment.task}, checkpoint {which}, physics {experiment.stepped_by}"
    rows = [(row.replica.title, row.step, row.episodes) for row in evaluated.rows]
    _print_table(title, evaluated.caveat, experiment.resolved_task, rows)
    evaluated.check_complete()


def evaluate_checkpoints(
    path: Path,
    which: str,
    seed: int | None = None,
    episodes: int | None = None,
    bindings: Sequence[str] = (),
    video: Path | None = None,
) -> RunEvaluation:
    """Evaluate a checkpoint of each replica (or one), with the run's own configuration, which becomes the current one.

    With the run's number of episodes the evaluation repeats the recorded one: same initial states, same noise.

    Raises:
        RunError: no such run, replica or checkpoint.
        ConfigError: a video is wanted and cannot be made here.
    """
    folder = RunFolder(path)
    experiment, facts = load_experiment(folder, bindings)
    evaluated = RunEvaluation(experiment, _caveat(experiment, facts))
    evaluator = build_ready_evaluator(experiment, episodes, bindings)
    mode = execution_mode(experiment, facts).resolve(experiment.resolved_device)
    evaluator.standardised_by = standardisation(facts)
    files = checkpoint_files(folder, seed, which)
    with closing(evaluator):
        recorder = VideoRecorder(evaluator, video, len(files)) if video else None
        for file in files:
            pack, replica, step = load_replica(experiment, folder, file)
            try:
                with recorder.film(replica.name, step) if recorder else nullcontext():
                    evaluated.rows.append(CheckpointEvaluation(replica, step, evaluator.run(pack, step, mode)[0]))
            except RunError as error:
                evaluated.failed.append(error)
    if recorder:
        recorder.keep(folder)
    return evaluated


def _caveat(experiment: Experiment, facts: RunRecord) -> str:
    """What must stand beside the scores: as recorded, or as episodes are judged now where that can be chosen."""
    task, data = experiment.resolved_task, facts["data"]
    if not task.condition:
        return facts["caveat"]
    of_data = caveat_of(data["is_d4rl"], data.get("synthetic", False), data.get("note"))
    return "; ".join(filter(None, (of_data, task.caveat, task.condition)))


def load_experiment(folder: RunFolder, bindings: Sequence[str] = ()) -> tuple[Experiment, RunRecord]:
    """The experiment that a run's folder describes, checked, and run.json; its configuration becomes the current one.

    Raises:
        RunError: it is not a run's folder. ConfigError: a binding is wrong, or something cannot be used here.
    """
    facts = folder.facts()
    gin_files.load_stored(folder.config, bindings)
    experiment = Experiment()
    check_experiment(experiment)
    return experiment, facts


def load_replica(experiment: Experiment, folder: RunFolder, file: Path) -> tuple[Pack, Replica, int]:
    """A checkpoint's weights as a pack of one replica, whose they are, and the updates that made them.

    Raises:
        RunError: the file is missing, damaged, or does not fit the experiment.
    """
    weights, record = checkpoint.load_weights(file)
    replicas = {replica.name: replica for replica in folder.replicas()}
    replica = replicas.get(record.get("replica", ""), Replica.plain(record["seed"]))
    pack = build_pack(experiment, [replica])
    pack.load(0, weights)
    return pack, replica, record["step"]


def standardisation(facts: RunRecord) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation (S,) by which a run's states were standardised; empty where they were not."""
    return facts["data"].get("state_mean", ()), facts["data"].get("state_std", ())


def checkpoint_files(folder: RunFolder, seed: int | None, which: str) -> list[Path]:
    """The files of a selection rule, one a replica, or the one file that is named."""
    if which not in CHECKPOINT_RULES:
        if not Path(which).is_file():
            raise RunError(
                f"There is no checkpoint '{which}'. Use {', '.join(CHECKPOINT_RULES)}, or a .safetensors file."
            )
        return [Path(which)]
    known = folder.replicas()
    wanted = [replica for replica in known if seed in (None, replica.seed)]
    if not wanted:
        seeds = sorted({replica.seed for replica in known})
        raise RunError(f"{folder.path} has no seed {seed}; it has {seeds}.")
    return [_selected(folder, replica, which) for replica in wanted]


def _selected(folder: RunFolder, replica: Replica, which: str) -> Path:
    """A replica's checkpoint by a selection rule; `last` is known before the run has finished."""
    kept = sorted((folder.replica(replica.name) / "checkpoints").glob("step-*.safetensors"))
    if which == "last" and kept:
        return kept[-1]
    return folder.snapshot(replica.name, folder.chosen_step(replica, CHECKPOINT_RULES[which]))


def evaluate_official(
    path: Path,
    task_name: str | None,
    epoch: str | None,
    episodes: int,
    bindings: Sequence[str] = (),
    video: Path | None = None,
) -> None:
    """Evaluate the official code's checkpoint as the official code acts, and print the table.

    Raises:
        ConfigError: no task is named. RunError: no readable checkpoint, or one of another task's sizes.
    """
    if task_name is None:
        raise ConfigError("--official wants --task, for example --task walker2d-medium-expert-v2.")
    experiment, pack, trained = load_official(path, task_name, epoch, bindings)
    evaluator = build_ready_evaluator(experiment, episodes, bindings)
    with closing(evaluator), VideoRecorder(evaluator, video).film(trained.stem, 0) if video else nullcontext():
        result = evaluator.run(pack, 0)[0]
    title = f"{task_name}, official checkpoint {trained.stem} ({trained.schedule}), physics {experiment.stepped_by}"
    _print_table(title, "", experiment.resolved_task, [(trained.stem, 0, result)])


def load_official(
    path: Path, task_name: str, epoch: str | None = None, bindings: Sequence[str] = ()
) -> tuple[Experiment, Pack, OfficialCheckpoint]:
    """The official code's checkpoint as it acts there: 50 candidates, softmax over the critics.

    The official code does not save its target critics; the critics stand in for them, as after loading there. The
    configuration that fits it becomes the current one.

    Raises:
        RunError: no readable checkpoint, or one of another task's sizes. ConfigError: a binding contradicts it.
    """
    trained = load_checkpoint(path, epoch)
    told = [f"{name}={value!r}" for name, value in trained.settings.items()]
    gin_files.load_gin([], [*told, f"Experiment.task={task_name!r}", *bindings])
    experiment = Experiment()
    _check_official(trained, experiment)
    check_experiment(experiment)
    pack = build_pack(experiment, [Replica.plain(0)])
    pack.load(0, trained.weights)
    return experiment, pack, trained


def build_ready_evaluator(experiment: Experiment, episodes: int | None, bindings: Sequence[str] = ()) -> Evaluator:
    """Its evaluator, ready; by then everything has been read, the command line's bindings among it.

    Raises:
        ConfigError: an environment cannot be made; or nothing reads a binding.
    """
    evaluator = build_evaluator(experiment, episodes)
    evaluator.environments.prepare(evaluator.episodes)
    gin_files.check_parameters_read(bindings, parameters_read())
    return evaluator


def _check_official(trained: OfficialCheckpoint, experiment: Experiment) -> None:
    """See that the task and the configuration are those of the files.

    Raises:
        RunError: the task has other states or actions.
        ConfigError: the configuration contradicts the files, or does not say what they do not.
    """
    task, sizes = experiment.resolved_task, (trained.state_dim, trained.action_dim)
    if sizes != (task.state_dim, task.action_dim):
        raise RunError(
            f"{trained.stem} sees states of {sizes[0]} numbers and gives actions of {sizes[1]}; {task.name} has "
            f"{task.state_dim} and {task.action_dim}. Name its own task with --task."
        )
    bound = abbreviate_names(bound_parameters())
    for name, value in trained.settings.items():
        if bound[name] != value and name not in ("DiffusionPolicy.schedule", "listed.betas"):
            raise ConfigError(f"--set {name}={bound[name]!r} contradicts {trained.stem}, which has {value!r}.")
    process = getattr(getattr(experiment.resolved_algorithm, "resolved_policy", None), "process", None)
    if process is None:
        raise ConfigError(f"{trained.stem} is a diffusion policy: leave the algorithm and its policy as they are.")
    if not len(trained.betas) and not set(SCHEDULE) <= bound.keys():
        raise ConfigError(
            f"{trained.stem} does not tell its noise schedule. Say it: --set DiffusionPolicy.n_timesteps=N "
            "DiffusionPolicy.schedule=NAME."
        )
    if len(trained.betas) and not trained.has_betas(process.betas):
        raise ConfigError(
            f"The noise schedule that --set makes contradicts {trained.stem}, which has {trained.schedule}."
        )


def _print_table(title: str, caveat: str, task: Task, rows: Sequence[tuple[str, int, EvaluationEpisodes]]) -> None:
    """A row a checkpoint, by its replica's name and its step; nothing where there are none."""
    table = Table(title=title)
    score = f"score ({caveat})" if caveat else "score"
    scores = () if score_or_return(caveat) == "return" else (score, "+-")
    for column in ("replica", "step", "episodes", "return", "+-", *scores, "length"):
        words = column in ("replica", score)  # may take a second line; a figure that does not fit would be cut
        table.add_column(column, justify="left" if column == "replica" else "right", no_wrap=not words, overflow="fold")
    for name, step, episodes in rows:
        measured = [episodes.returns, *([task.score(episodes.returns)] if task.scored else [])]
        values = [*(number for each in measured for number in (each.mean(), each.std())), episodes.lengths.mean()]
        table.add_row(name, f"{step:,}", str(len(episodes.returns)), *(f"{value:.1f}" for value in values))
    if rows:
        Console().print(table)
