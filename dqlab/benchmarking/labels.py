"""What plots of benchmarks have in common: the sheet, and labels that say only what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dqlab.benchmarking.record import Record


def new_sheet(height: float) -> Any:
    """An empty figure, as wide as all others, `height` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def what_varies(records: Sequence[Record]) -> set[str]:
    """Names of the conditions that are not the same for all."""
    names = {name for record in records for name in record.conditions}
    return {name for name in names if len({str(record.conditions.get(name)) for record in records}) > 1}


def label_of(record: Record, varying: set[str]) -> str:
    """What varies: words as they are, numbers with their names."""
    shown = {name: value for name, value in record.conditions.items() if name in varying}
    return ", ".join(value if isinstance(value, str) else f"{name}={value}" for name, value in shown.items())
