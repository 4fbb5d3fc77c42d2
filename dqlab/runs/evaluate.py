"""Evaluating what was trained, a run's checkpoints or the official code's; printing the table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from rich.table import Table

from dqlab.config import gin_files
from dqlab.config.gin_state import parameters_read
from dqlab.envs.caveats import score_or_return
from dqlab.errors import RunError
from dqlab.printing import Console
from dqlab.runs.build import build_evaluator, execution_mode
from dqlab.runs.policy import LoadedPolicy
from dqlab.runs.video import VideoRecorder
from dqlab.training.model_selection import EvaluationEpisodes


def evaluate_run(
    policies: Sequence[LoadedPolicy], episodes: int | None, bindings: Sequence[str] = (), video: Path | None = None
) -> None:
    """Evaluate policies of a run as `evaluate_policies` does, and print a table: a row each.

    A RunError where an evaluation has failed comes once the others are printed.
    """
    with Console(stderr=True).status("playing episodes" + (", and drawing the first one" if video else "")):
        rows, failed = evaluate_policies(policies, episodes, bindings, video)
    first = policies[0]
    with first.ready():
        table = Table(title=f"{first.task.name}, {first.source.name}, physics {first.experiment.stepped_by}")
    score = f"score ({first.caveat})" if first.caveat else "score"
    scores = () if score_or_return(first.caveat) == "return" else (score, "+-")
    for column in ("replica", "step", "episodes", "return", "+-", *scores, "length"):
        words = column in ("replica", score)  # may take a second line; a figure that does not fit would be cut
        table.add_column(column, justify="left" if column == "replica" else "right", no_wrap=not words, overflow="fold")
    for policy, found in rows:
        returns = found.returns
        measured = [returns, policy.task.score(returns)] if policy.task.scored else [returns]
        values = [*(number for each in measured for number in (each.mean(), each.std())), found.lengths.mean()]
        name = policy.replica.title if policy.source.facts else policy.source.file.name
        table.add_row(name, f"{policy.source.step:,}", str(len(returns)), *(f"{value:.1f}" for value in values))
    if rows:
        Console().print(table)
    if failed:
        raise failed[0]


def evaluate_policies(
    policies: Sequence[LoadedPolicy], episodes: int | None, bindings: Sequence[str] = (), video: Path | None = None
) -> tuple[list[tuple[LoadedPolicy, EvaluationEpisodes]], list[RunError]]:
    """The episodes of policies that `load_policies` has loaded, and why others gave none.

    Args:
        policies, episodes: at least one policy; as many episodes as in training where none are given.
        bindings: of the command line; a ConfigError where nothing has read one.
        video: the file of the first episode, one a policy where there are several; kept in the run and MLflow, too.
    """
    first, rows, failed = policies[0], [], []
    with first.ready(), closing(build_evaluator(first.experiment, episodes)) as evaluator:
        evaluator.environments.prepare(evaluator.episodes)
        gin_files.check_parameters_read(bindings, parameters_read())
        mode = execution_mode(first.experiment, first.source.facts).resolve(first.device)
        recorder = VideoRecorder(evaluator, video, len(policies)) if video else None
        for policy in policies:
            try:
                with recorder.film(policy.replica.name, policy.source.step) if recorder else nullcontext():
                    rows.append((policy, policy.evaluate_by(evaluator, mode)))
            except RunError as error:
                failed.append(error)
    if recorder and first.source.facts:
        recorder.keep(first.source.folder)
    return rows, failed
