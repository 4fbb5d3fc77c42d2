"""`dqlab score`: D4RL-normalised scores of returns, read from wherever they are."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dqlab.envs.tasks import D4RL, Task, tasks
from dqlab.errors import ConfigError, DataError, nearest, odd_character
from dqlab.files import expanded, read_user_text
from dqlab.printing import Console

Array = NDArray[np.float64]
COLUMNS = ("return", "returns", "episode_return")
"""A CSV file's column that is taken where it has several and none is named."""


def read_returns(given: Sequence[str], column: str = "") -> Array:
    """The returns (n,) that arguments name: numbers, files, or `-` for standard input.

    Args:
        given: each a number; `-`; or a .npy, .json or .csv file, or one with a number a line.
        column: of CSV files.

    Raises:
        DataError: a file cannot be read, holds something else, or a return is not finite.
    """
    found = [value for item in given for value in _returns_of(item, column)]
    if not found:
        raise DataError("There are no returns to score. Name numbers, files, or - for standard input.")
    wrong = [index for index, value in enumerate(found) if not np.isfinite(value)]
    if wrong:
        raise DataError(
            f"Return {wrong[0] + 1} of {len(found)} is {found[wrong[0]]}: only finite returns have a score."
        )
    return np.array(found, dtype=np.float64)


KINDS = {".npy": "a NumPy array", ".json": "JSON", ".csv": "CSV"}
"""What a file holds, by its suffix; a number a line where it has another one."""


def _returns_of(item: str, column: str) -> list[float]:
    if _is_number(item):
        return [float(item)]
    path = expanded(item)
    if item != "-" and not path.is_file():
        raise DataError(f"'{item}' is neither a number nor a file.")
    try:
        if item == "-":
            return _lines("standard input", sys.stdin.read())
        if path.suffix == ".npy":
            return _numbers(path, np.load(path, allow_pickle=False))
        text = read_user_text(path)
        if path.suffix == ".json":
            return _numbers(path, json.loads(text))
        return _csv(path, text, column) if path.suffix == ".csv" else _lines(str(path), text)
    except (OSError, ValueError, EOFError, RecursionError, csv.Error) as error:
        where, kind = ("Standard input", "text") if item == "-" else (path, KINDS.get(path.suffix, "text"))
        raise DataError(f"{where} cannot be read as {kind}: {error}.") from error


def _lines(where: str, text: str) -> list[float]:
    """A number a line; which of several is a return, or whether a comma parts thousands, is not guessed."""
    found: list[float] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        words = line.replace(",", " ").split()
        if not all(map(_is_number, words)):
            raise _no_number(where, number, line)
        if len(words) > 1:
            raise DataError(
                f"{where}, line {number}: '{line.strip()[:60]}' is more than one number. Write a return a line; of a "
                f"table, call it .csv and name the column with --column. {odd_character(line)}".strip()
            )
        found += map(float, words)
    return found


def _no_number(where: Path | str, number: int, text: str) -> DataError:
    return DataError(f"{where}, line {number}: '{text.strip()[:60]}' is no number. {odd_character(text)}".strip())


def _numbers(path: Path, values: Any) -> list[float]:
    """A list of numbers, of whatever shape."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path} holds no plain list of numbers.")
    return [float(value) for value in array.ravel()]


FIGURE = re.compile(r"[+-]?\.?\d")


def _csv(path: Path, text: str, column: str) -> list[float]:
    """One column; with a header if the first row is not all numbers."""
    reader = csv.reader(io.StringIO(text))
    rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        return []
    first = rows[0][1]
    header = [] if all(map(_is_number, first)) else [name.strip() for name in first]
    for name in header:
        if FIGURE.match(name):  # a number that is badly written, and would not be counted
            raise _no_number(path, rows[0][0], name)
    names = header or [str(number) for number in range(len(first))]
    index = _column(path, names, column)
    body = rows[1:] if header else rows
    for number, row in body:
        if index >= len(row) or not _is_number(row[index]):
            raise DataError(f"{path}, line {number}: no number in column '{names[index]}'.")
    return [float(row[index]) for _, row in body]


def _column(path: Path, names: Sequence[str], column: str) -> int:
    wanted = [column] if column else list(COLUMNS)
    if not column and len(names) == 1:
        return 0
    found = [names.index(name) for name in wanted if name in names]
    if not found:
        raise DataError(f"{path}: which column are the returns? Name one with --column: {', '.join(names)}.")
    return found[0]


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


MEAN_NOTE = (
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


def score_returns(name: str, given: Sequence[str], column: str = "") -> dict[str, Any]:
    """Score returns; `name` as in `reference_of`, `given` and `column` as in `read_returns`.

    Returns:
        What `--json` prints; the deviation is that of the n episodes (ddof 0), as in evaluations.
    """
    shown, task = reference_of(name)
    returns = read_returns(given, column)
    scores = task.score(returns)
    return {
        "task": shown,
        "min_return": task.min_score,
        "max_return": task.max_score,
        "source": source_of(task),
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
    console.print(f"n = {scored['n']}; a return of {low} scores 0, {high} scores 100.")
    console.print(f"Source: {scored['source']}.")
    console.print(MEAN_NOTE)


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
    """Print `all_references` as a table."""
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
