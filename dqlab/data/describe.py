"""`dqlab data info`: what is known of a dataset, as plain values and as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from dqlab.data.bounds import BOUNDS_ADVICE
from dqlab.data.locate import Dataset, locate_dataset, reading_status
from dqlab.data.survey import BY_LIMIT, RECORDED, Survey, survey_dataset
from dqlab.errors import printable_name
from dqlab.machine import in_words
from dqlab.printing import Console

MOST_TEXT = 300


def print_info(name: str, task: str | None = None, as_json: bool = False) -> None:
    """Read a dataset and print what is known of it.

    Args:
        name: as `locate_dataset` takes it.
        task: whose data it holds.
        as_json: one JSON object instead of tables.

    Raises:
        DqlabError: there is no such dataset, or it cannot be read.
    """
    dataset = locate_dataset(name, task)
    with reading_status(name):
        found = survey_dataset(dataset.read(), dataset.task)
        known = describe_dataset(dataset, found, dataset.digest())
    if as_json:
        print(json.dumps(known, indent=1))
    else:
        print_dataset(known, Console())


def describe_dataset(dataset: Dataset, found: Survey, digest: str) -> dict[str, Any]:
    """Everything that is known of a dataset, as plain values; what is not finite is None."""
    known: dict[str, Any] = {
        "dataset": dataset.named,
        "place": str(dataset.place),
        "bytes": dataset.size,
        "sha256": digest,
        "task": dataset.task.name if dataset.task else None,
        "rows": found.rows,
        "transitions": found.transitions,
        "episodes": len(found.lengths),
        "unfinished_rows": found.unfinished,
        "terminals": found.terminals,
        "timeouts": found.timeouts,
        "timeouts_from": found.cuts,
        "terminal_and_timeout": found.both,
        "duplicate_rows": found.duplicates,
        "columns": {name: _describe_column(found, name) for name in found.shapes},
        "action_saturation": found.saturation.tolist(),
        "actions_outside": found.action_range.rows_outside,
        "actions_note": found.actions_note,
        "episode_length": describe_values(found.lengths),
        "episode_return": describe_values(found.returns),
        "metadata": dict(found.metadata),
    }
    if dataset.task:
        known["normalised_score"] = describe_values(dataset.task.score(found.returns))
    cleaned: dict[str, Any] = _plain(known)
    return cleaned


def describe_values(values: NDArray[Any]) -> dict[str, float]:
    """Least, quartiles, greatest, mean and standard deviation of the finite ones; empty where there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {}
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    found = dict(zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))
    return {**found, "mean": float(values.mean()), "std": float(values.std())}


def _describe_column(found: Survey, name: str) -> dict[str, Any]:
    known: dict[str, Any] = {"shape": list(found.shapes[name]), "dtype": found.dtypes[name]}
    if values := found.values.get(name):
        known |= {"nan": values.nans, "infinite": values.infinities}
        known |= {"min": float(values.low.min()), "max": float(values.high.max())}
    return known


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


HEADINGS = {"min": "min", "quartile_1": "25%", "median": "median", "quartile_3": "75%", "max": "max"}
HEADINGS |= {"mean": "mean", "std": "std"}


def print_dataset(known: Mapping[str, Any], console: Console) -> None:
    """Print what `describe_dataset` gives as tables."""
    console.print(_table(known["dataset"], ["", ""], _summary(known).items(), left=2))
    if known["episode_length"]:
        rows = [
            (name.replace("_", " "), *(f"{known[name][key]:,.1f}" for key in HEADINGS))
            for name in ("episode_return", "normalised_score", "episode_length")
            if known.get(name)
        ]
        console.print(_table("Episodes", ["", *HEADINGS.values()], rows))
    headings = ["column", "shape", "dtype", "min", "max", "NaN", "infinite"]
    console.print(_table("Columns", headings, [_column_row(*column) for column in known["columns"].items()], left=3))
    if known["actions_note"]:
        console.print(Text(f"{known['actions_note'].capitalize()}; for training, {BOUNDS_ADVICE}."), soft_wrap=True)
    shares = ", ".join(f"{share:.1%}" for share in known["action_saturation"])
    console.print(Text(f"Actions: share of |a| > 0.99, dimension by dimension: {shares}"), soft_wrap=True)
    if known["metadata"]:
        console.print(
            _table("Metadata", ["", ""], [_note_row(*note) for note in sorted(known["metadata"].items())], left=2)
        )


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Table:
    """Rows of text; all columns but the first ones are aligned to the right."""
    table = Table(title_justify="left", title=Text(title), show_header=any(headings))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _summary(known: Mapping[str, Any]) -> dict[str, str]:
    unfinished = f", and {known['unfinished_rows']:,} rows of one that does not end" if known["unfinished_rows"] else ""
    cuts = {RECORDED: "", BY_LIMIT: " (by the task's step limit; none are recorded)"}.get(
        known["timeouts_from"], " (not recorded)"
    )
    return {
        "place": f"{known['place']} ({in_words(known['bytes'])})",
        "SHA-256": known["sha256"],
        "task": known["task"] or "not known (--task TASK)",
        "rows": f"{known['rows']:,}; {known['transitions']:,} become transitions",
        "episodes": f"{known['episodes']:,}{unfinished}",
        "terminals": f"{known['terminals']:,}",
        "timeouts": f"{known['timeouts']:,}{cuts}",
        "duplicate rows": f"{known['duplicate_rows']:,} ({known['duplicate_rows'] / max(1, known['rows']):.2%})",
    }


def _column_row(name: str, column: Mapping[str, Any]) -> list[str]:
    ends = ["" if column.get(end) is None else f"{column[end]:.4g}" for end in ("min", "max")]
    counts = [f"{column[kind]:,}" if kind in column else "" for kind in ("nan", "infinite")]
    return [name, str(tuple(column["shape"])), column["dtype"], *ends, *counts]


def _note_row(name: str, text: str) -> list[str]:
    shown = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text):,} characters; --json has all)"
    return [printable_name(name), shown]
