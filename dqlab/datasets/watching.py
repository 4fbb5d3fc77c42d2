"""A line on the terminal while a large dataset is read; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dqlab.console import Console
from dqlab.datasets.survey import Tell


@contextmanager
def watched(name: str) -> Iterator[Tell]:
    """A callback that shows how many rows are done."""
    console = Console(stderr=True)
    with console.status(f"reading {name}") as status:
        yield lambda rows: status.update(f"reading {name}: {rows:,} rows")
