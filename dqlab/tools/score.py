"""`dqlab score`: D4RL-normalised scores of returns, read from wherever they are."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from rich.table import Table

from dqlab.envs.tasks import D4RL, Task, tasks
from dqlab.errors import ConfigError, DataError, nearest, one_line, printable_name
from dqlab.files import expanded, read_user_text
from dqlab.printing import Console

Array = NDArray[np.float64]
COLUMNS = ("return", "returns", "episode_return")  # of a table, where none is named
KINDS = {".npy": "a NumPy array", ".json": "JSON"}  # of others: a table, CSV or a number a line
FIGURE = re.compile(r"[+-]?\.?\d")


def read_returns(given: Sequence[str], column: str = "") -> Array:
    """The returns (n,) that arguments name: numbers; `-` for standard input; files: .npy, .json, CSV, a number a line.

    A DataError where a file cannot be read, holds something else, or a return is not finite. `column` is a table's.
    """
    found = [value for item in given for value in _returns_of(item, column)]
    if not found:
        raise DataError("There are no returns to score. Name numbers, files, or - for standard input.")
    for number in np.flatnonzero(~np.isfinite(found)):
        raise DataError(f"Return {number + 1} of {len(found)} is {found[number]}: only finite returns have a score.")
    return np.array(found)


def _returns_of(item: str, column: str) -> list[float]:
    if _is_number(item):
        return [float(item)]
    path = Path("Standard input") if item == "-" else expanded(item)
    if item != "-" and not path.is_file():
        raise DataError(f"'{item}' is neither a number nor a file.")
    try:
        if path.suffix == ".npy":
            values = np.asarray(np.load(path, allow_pickle=False))
        else:
            values = _values(path, sys.stdin.read() if item == "-" else read_user_text(path), column)
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as {KINDS.get(path.suffix, 'a table')}: {one_line(error)}.") from error
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds no plain list of numbers.")
    return [float(value) for value in values.ravel()]


def _values(path: Path, text: str, column: str) -> NDArray[Any]:
    """The numbers in a file's text; a ValueError where one is misspelt, a DataError where a column cannot be told."""
    if path.suffix == ".json":
        return np.asarray(json.loads(text))
    if not (text := text.strip("\ufeff\r\n ")):
        return np.empty(0)
    if "\0" in text:  # at which pandas would end a number
        raise ValueError("it has NUL bytes")
    table = pandas.read_csv(io.StringIO(text), header=None, dtype=str, keep_default_na=False, skipinitialspace=True)
    names, wanted = list(map(str, table)), [column] if column else list(COLUMNS)
    if not all(map(_is_number, first := table.iloc[0])):
        names, table = [str(name).strip() for name in first], table[1:]
        if misspelt := [name for name in names if FIGURE.match(name) and not _is_number(name)]:
            raise DataError(f"{path}: '{printable_name(misspelt[0])}' in the first line is no number.")
    elif len(names) == 1:
        wanted += names
    if not (found := [name for name in wanted if names.count(name) == 1]):
        known = ", ".join(map(printable_name, names))
        raise DataError(f"{path}: which column are the returns? Name one with --column: {known}.")
    return np.array([float(value) for value in table.iloc[:, names.index(found[0])]])


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


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


def score_returns(name: str, given: Sequence[str], column: str = "") -> dict[str, Any]:
    """What `--json` prints, of arguments of `reference_of` and `read_returns`; the deviation is with ddof 0."""
    shown, task = reference_of(name)
    if not task.scored:
        raise ConfigError(f"{task.name} has no reference returns: nobody has published any. Compare returns.")
    returns = read_returns(given, column)
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
    table = Table(title=f"D4RL-normalised scores: {scored['task']}")
    for name in ("episode", "return", "score"):
        table.add_column(name, justify="right")
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
    console.print("The mean score is that of the mean return, as the official code prints it: the score is linear.")
