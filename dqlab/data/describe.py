"""`dqlab data info`: what is known of a dataset, as plain values and as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from dqlab.data.bounds import BOUNDS_ADVICE
from dqlab.data.locate import Dataset, locate_dataset, reading_status
from dqlab.data.survey import Survey, survey_dataset
from dqlab.errors import printable_name
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
        "masked": found.masked,
        "duplicate_rows": found.duplicates,
        "columns": {name: _describe_column(found, name) for name in found.shapes},
        "action_saturation": found.saturation.tolist(),
        "actions_outside": found.action_range.rows_outside,
        "actions_note": found.actions_note,
        "episode_length": describe_values(found.lengths),
        "episode_return": describe_values(found.returns),
        "metadata": dict(found.metadata),
    }
    if dataset.task and not dataset.task.measures_success:
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


def print_dataset(known: Mapping[str, Any], console: Console) -> None:
    """Print what `describe_dataset` gives, a row a fact, a column of the dataset, or a note in its metadata."""
    table = Table("", "", show_header=False)
    for column in table.columns:
        column.overflow = "fold"
    for name, value in known.items():
        parts = value if name in ("columns", "metadata") else {"": value}
        for part, said in parts.items():
            title = " ".join(filter(None, (name.replace("_", " "), printable_name(part) if part else "")))
            table.add_row(Text(title), Text(_as_text(said)))
    console.print(table)
    if known["actions_note"]:
        console.print(Text(f"{known['actions_note'].capitalize()}; for training, {BOUNDS_ADVICE}."), soft_wrap=True)


def _as_text(value: Any) -> str:
    """A value for people: texts are cut, for metadata may be pages long."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_as_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " | ".join(map(_as_text, value))
    if isinstance(value, (int, float)):
        return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
    text = str("unknown" if value is None else value)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text):,} characters; --json has all)"
