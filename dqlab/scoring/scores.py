"""D4RL-normalised scores of returns that somebody has got somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dqlab.console import Console
from dqlab.envs.tasks import D4RL, Task, tasks
from dqlab.errors import ConfigError, nearest
from dqlab.scoring.returns import read_returns

Array = NDArray[np.float64]
LINEAR = (
    "The mean score is the score of the mean return, because the score is linear: the official code, which averages "
    "returns first, prints the same."
)


def reference_of(name: str) -> tuple[str, Task]:
    """What is scored, and a task with its reference returns.

    Args:
        name: a task's, or what several tasks begin with or share: a robot, such as `walker2d`, or `kitchen`.

    Raises:
        ConfigError: there is no such task, or the tasks meant have different reference returns.
    """
    if name in tasks:
        return name, tasks.get(name)
    known = [entry.item for entry in tasks]
    meant = [task for task in known if task.robot == name or task.name.startswith(f"{name}-")]
    if not meant:
        raise ConfigError(f"Unknown task '{name}'. {nearest(name, {n for t in known for n in (t.name, t.robot)})}")
    if len({(task.min_score, task.max_score) for task in meant}) > 1:
        raise ConfigError(f"'{name}' may be {', '.join(task.name for task in meant)}: they are scored differently.")
    return f"{name} (all its tasks)" if len(meant) > 1 else meant[0].name, meant[0]


def source_of(task: Task) -> str:
    """Who says which returns score 0 and 100."""
    return str(D4RL["source"]) if task.name in D4RL["tasks"] else tasks.entry(task.name).source


@dataclass(frozen=True)
class Scored:
    """Returns with their scores.

    Attributes:
        name: what they are scored as.
        task: with the reference returns.
        returns (n,), scores (n,).
    """

    name: str
    task: Task
    returns: Array
    scores: Array

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; the deviation is that of the n episodes (ddof 0), as in evaluations."""
        return {
            "task": self.name,
            "min_return": self.task.min_score,
            "max_return": self.task.max_score,
            "source": source_of(self.task),
            "returns": self.returns.tolist(),
            "scores": self.scores.tolist(),
            "n": len(self.scores),
            "mean": float(self.scores.mean()),
            "std": float(self.scores.std()),
        }


def score(name: str, given: Sequence[str], column: str = "") -> Scored:
    """Score returns; `name` as in `reference_of`, `given` and `column` as in `read_returns`."""
    shown, task = reference_of(name)
    returns = read_returns(given, column)
    return Scored(shown, task, returns, task.score(returns))


def print_scored(scored: Scored) -> None:
    """Every return's score, their mean and deviation, and whose reference returns they stand on."""
    table = Table(title=f"D4RL-normalised scores: {scored.name}")
    for name in ("episode", "return", "score"):
        table.add_column(name, justify="right")
    for index, (value, result) in enumerate(zip(scored.returns, scored.scores, strict=True), 1):
        table.add_row(str(index), f"{value:.3f}", f"{result:.3f}")
    table.add_section()
    table.add_row("mean", f"{scored.returns.mean():.3f}", f"{scored.scores.mean():.3f}")
    table.add_row("std", f"{scored.returns.std():.3f}", f"{scored.scores.std():.3f}")
    task, console = scored.task, Console()
    console.print(table)
    console.print(f"n = {len(scored.scores)}; a return of {task.min_score} scores 0, {task.max_score} scores 100.")
    console.print(f"Source: {source_of(task)}.")
    console.print(LINEAR)


def all_references() -> list[dict[str, Any]]:
    """Reference returns and episode limit of every task."""
    return [
        {
            "task": task.name,
            "min_return": task.min_score,
            "max_return": task.max_score,
            "episode_limit": task.episode_limit,
            "source": source_of(task),
        }
        for task in (entry.item for entry in tasks)
    ]


def print_references() -> None:
    """The same as a table."""
    table = Table(title="Returns that score 0 and 100")
    for name in ("task", "scores 0", "scores 100", "episode limit"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    rows = all_references()
    for row in rows:
        table.add_row(row["task"], str(row["min_return"]), str(row["max_return"]), str(row["episode_limit"]))
    console = Console()
    console.print(table)
    for source in dict.fromkeys(row["source"] for row in rows):
        console.print(f"Source: {source}.")
