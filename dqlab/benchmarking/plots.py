"""The plots of a report, as PNGs, where there are data for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dqlab.benchmarking.curves import CURVES, data_of, draw_curve
from dqlab.benchmarking.record import Record
from dqlab.benchmarking.roofline import draw_roofline
from dqlab.files import atomic_path

Painter = Callable[[Sequence[Record]], Any]


def draw(records: Sequence[Record], folder: Path) -> tuple[list[Path], list[str]]:
    """Draw what there are data for.

    Args:
        records: one a benchmark, of one kind of machine.
        folder: where the PNGs go.

    Returns:
        The PNGs, and the names of those that were left out.
    """
    drawn, left_out = [], []
    plots: dict[str, tuple[list[Record], Painter]] = {
        curve.part: (data_of(curve, records), partial(draw_curve, curve)) for curve in CURVES
    }
    plots["roofline"] = ([record for record in records if "peak_share" in record.figures], draw_roofline)
    for name, (data, painter) in plots.items():
        if data:
            drawn.append(_save(painter(data), folder / f"{name}.png"))
        else:
            left_out.append(name)
    return drawn, left_out


def _save(figure: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path
