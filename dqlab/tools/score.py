"""`dqlab score`: D4RL-normalised scores of returns, read from wherever they are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Column, Table

from dqlab.envs.tasks import D4RL, Task, tasks
from dqlab.errors import ConfigError, DataError, nearest, one_line, printable_name
from dqlab.files import expanded, read_user_text
from dqlab.printing import Console

Array = NDArray[np.float64]


def read_returns(given: Sequence[str]) -> Array:
    """The returns (n,) that arguments name: numbers, files of a number a line, `-` for standard input.

    A DataError where a file cannot be read, holds something else, or a return is not finite.
    """
    found = [value for item in given for value in _returns_of(item)]
    if not found:
        raise DataError("There are no returns to score. Name numbers, files, or - for standard input.")
    for number in np.flatnonzero(~np.isfinite(found)):
        raise DataError(f"Return {number + 1} of {len(found)} is {found[number]}: only finite returns have a score.")
    return np.array(found)


def _returns_of(item: str) -> list[float]:
    with suppress(ValueError):
        return [float(item)]
    path = Path("Standard input") if item == "-" else expanded(item)
    if item != "-" and not path.is_file():
        raise DataError(f"'{item}' is neither a number nor a file.")
    try:
        text = sys.stdin.read() if item == "-" else read_user_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {one_line(error)}.") from error
    values = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        try:
            values += [float(line)] if line.strip() else []
        except ValueError as error:
            said = f"{path}, line {number}: '{printable_name(line)}' is no number. A number a line is read; a table's"
            raise DataError(f"{said} column: cut -d, -f2 returns.csv | tail -n +2 | dqlab score TASK -.") from error
    return values


def reference_of(name: str) -> tuple[str, Task]:
    """What is scored, and a task with its reference returns, by its name or what several begin with or share.

    That is a robot, such as `walker2d`, or `kitchen`. A ConfigError where there is none, or their references differ.
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


def score_returns(name: str, given: Sequence[str]) -> dict[str, Any]:
    """What `--json` prints, of arguments of `reference_of` and `read_returns`; the deviation is with ddof 0."""
    shown, task = reference_of(name)
    if not task.scored:
        raise ConfigError(f"{task.name} has no reference returns: nobody has published any. Compare returns.")
    returns = read_returns(given)
    scores = task.score(returns)
    return {
        "task": shown,
        "min_return": task.min_score,
        "max_return": task.max_score,
        "source": str(D4RL["source"]) if task.name in D4RL["tasks"] else tasks.entry(task.name).source,
        "returns": returns.tolist(),
        "scores": scores.tolist(),
        "n": len(scores),
        "mean": float(scores.mean()),
        "std": float(scores.std()),
    }


def print_scored(scored: Mapping[str, Any]) -> None:
    """Every return's score, their mean and deviation, and whose reference returns they stand on."""
    columns = (Column(name, justify="right") for name in ("episode", "return", "score"))
    is_d4rl = scored["source"] == str(D4RL["source"])
    table = Table(*columns, title=f"{'D4RL-normalised' if is_d4rl else 'Normalised'} scores: {scored['task']}")
    returns = scored["returns"]
    for index, (value, result) in enumerate(zip(returns, scored["scores"], strict=True), 1):
        table.add_row(str(index), f"{value:.3f}", f"{result:.3f}")
    table.add_section()
    table.add_row("mean", f"{np.mean(returns):.3f}", f"{scored['mean']:.3f}")
    table.add_row("std", f"{np.std(returns):.3f}", f"{scored['std']:.3f}")
    console = Console()
    console.print(table)
    low, high = scored["min_return"], scored["max_return"]
    console.print(f"n = {scored['n']}; a return of {low} scores 0, {high} scores 100.\nSource: {scored['source']}.")
    printed = ", as the official code prints it" if is_d4rl else ""
    console.print(f"The mean score is that of the mean return{printed}: the score is linear.")
