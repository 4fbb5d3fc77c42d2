"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "-"
TIMES = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"), (0.0, " ns"))
COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, ""))
SMALLEST = {" ns": 1e-9}


def digits(value: float) -> str:
    """Three significant digits, never in exponential form."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:.{max(decimals, 0)}f}"


def _scaled(value: float | None, scales: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return NONE
    factor, unit = next(scale for scale in scales if value >= scale[0] * 0.9995)
    return digits(value / (factor or SMALLEST.get(unit, 1.0))) + unit


def seconds(value: float | None) -> str:
    """A duration, e.g. 12.3 ms."""
    return _scaled(value, TIMES)


def count(value: float | None) -> str:
    """A number or a rate, e.g. 123 or 45.6 k."""
    return _scaled(value, COUNTS)


def times(ratio: float | None) -> str:
    """How many times faster, e.g. 1.52x."""
    return NONE if ratio is None else f"{digits(ratio)}x"


def share(part: float | None) -> str:
    """A part of a whole, e.g. 12.3%."""
    return NONE if part is None else f"{100 * part:.1f}%"


def pairs(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line, e.g. batch=256, mode=eager."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def cells(median: float | None, figures: Mapping[str, float]) -> list[str]:
    """The five columns of every table of benchmarks, without the name: see `HEADINGS`."""
    return [
        seconds(median),
        count(figures.get("per_second")),
        times(figures.get("ratio")),
        share(figures.get("peak_share")),
    ]


HEADINGS = ("median", "per second", "ratio", "of peak")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
