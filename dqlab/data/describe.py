"""`dqlab data info` and `dqlab data verify`: what they print of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json
from rich.table import Table
from rich.text import Text

from dqlab.data.bounds import BOUNDS_ADVICE, ActionRange
from dqlab.data.download import digest_fault
from dqlab.data.formats.base import UnreadError, whole_columns
from dqlab.data.locate import Dataset, locate_dataset, reading_status
from dqlab.data.survey import Survey, find_faults
from dqlab.errors import DataError, message_of, printable, printable_name
from dqlab.files import size_of
from dqlab.printing import Console

MOST_TEXT = 300
SATURATED = 0.99
"""Actions of larger size count as saturated."""


def report_findings(name: str, task: str | None = None) -> bool:
    """Read a dataset of `locate_dataset` and print a line for each finding; returns whether it is damaged.

    A DqlabError where there is no such dataset, or it cannot be read now, or here: it is in use, say.
    """
    dataset = locate_dataset(name, task)
    with reading_status(name):
        try:
            digest = dataset.digest()
            found = Survey(dataset.read(), dataset.task)
            damage, notes = find_faults(found)
            damage = [*filter(None, [digest_fault(dataset.place, digest)]), *damage]
            sound = [] if damage else [f"{found.counts}, SHA-256 {digest}"]
        except UnreadError:
            raise
        except DataError as error:
            damage, notes, sound = [printable(message_of(error))], [], []
    for kind, texts in (("damage", damage), ("note", notes), ("sound", sound)):
        for text in texts:
            print(f"{name}: {kind}: {text}")
    return bool(damage)


def print_info(name: str, task: str | None = None, as_json: bool = False) -> None:
    """Read a dataset of `locate_dataset` and print what is known of it, as a table or as JSON; or a DqlabError."""
    dataset = locate_dataset(name, task)
    with reading_status(name):
        found = Survey(dataset.read(), dataset.task)
        known = describe_dataset(dataset, found, dataset.digest())
    if as_json:
        print(to_json(known, indent=1, inf_nan_mode="null").decode())
        return
    table = Table("", "", show_header=False)
    for column in table.columns:
        column.overflow = "fold"
    for title, value in known.items():
        parts = value if title in ("columns", "metadata") else {"": value}
        for part, said in parts.items():
            row = " ".join(filter(None, (title.replace("_", " "), printable_name(part) if part else "")))
            table.add_row(Text(row), Text(_as_text(said)))
    console = Console()
    console.print(table)
    if note := known["actions_note"]:
        console.print(Text(f"{note.capitalize()}; for training, {BOUNDS_ADVICE}."), soft_wrap=True)


def describe_dataset(dataset: Dataset, found: Survey, digest: str) -> dict[str, Any]:
    """Everything that is known of a dataset, as plain values; ends of a column without a finite value are None."""
    columns, task, actions = found.columns, found.task, ActionRange(found.columns)
    there = whole_columns(columns).items()
    known: dict[str, Any] = {
        "dataset": dataset.named,
        "place": str(dataset.place),
        "bytes": size_of(dataset.place),
        "sha256": digest,
        "task": task.name if task else None,
        "rows": len(columns),
        "transitions": found.transitions,
        "episodes": len(found.lengths),
        "unfinished_rows": found.unfinished,
        "terminals": int(found.terminals.sum()),
        "timeouts": int(found.timeouts.sum()),
        "timeouts_from": found.cuts,
        "terminal_and_timeout": found.both,
        "masked": 0 if columns.masks is None else int((columns.masks == 0).sum()),
        "duplicate_rows": found.duplicates,
        "columns": {name: {"shape": list(column.shape), "dtype": str(column.dtype)} for name, column in there},
        "action_saturation": (np.abs(columns.actions) > SATURATED).mean(axis=0).tolist(),
        "actions_outside": actions.rows_outside,
        "actions_note": actions.note,
        "episode_length": describe_values(found.lengths),
        "episode_return": describe_values(found.returns),
        "metadata": dict(columns.metadata),
    }
    for name, values in found.values.items():
        ends = {"min": float(values.low.min()), "max": float(values.high.max())}
        finite = {end: value if math.isfinite(value) else None for end, value in ends.items()}
        known["columns"][name] |= {"nan": values.nans, "infinite": values.infinities, **finite}
    if task and not task.measures_success:
        known["normalised_score"] = describe_values(task.score(found.returns))
    return known


def describe_values(values: NDArray[Any]) -> dict[str, float]:
    """Least, quartiles, greatest, mean and standard deviation of the finite ones; empty where there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {}
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    found = dict(zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))
    return {**found, "mean": float(values.mean()), "std": float(values.std())}


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
