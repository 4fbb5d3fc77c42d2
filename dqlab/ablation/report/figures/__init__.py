"""The figures of a report, in the order in which they are shown."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dqlab.ablation.report.figures.curves import learning_curves
from dqlab.ablation.report.figures.profiles import profiles
from dqlab.ablation.report.figures.rows import improvement, intervals
from dqlab.ablation.report.figures.style import Drawn
from dqlab.ablation.report.figures.values import score_by_value
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import Analysis

__all__ = ["Drawn", "draw", "image"]

METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def draw(results: GridResults, analysis: Analysis, rules: Sequence[str]) -> dict[str, Drawn]:
    """Name -> figure, of those that there are data for."""
    painters = (
        intervals,
        partial(score_by_value, results=results),
        learning_curves,
        profiles,
        improvement,
    )
    drawn = [paint(analysis, rules=rules, caveat=results.caveat) for paint in painters]
    for each in drawn:
        if each is not None:
            _settle(each)
    return {figure.name: figure for figure in drawn if figure is not None}


def _settle(drawn: Drawn) -> None:
    """Lay the figure out once, for all formats."""
    with _quietly():
        drawn.figure.draw_without_rendering()
    drawn.figure.set_layout_engine("none")


def image(drawn: Drawn, kind: str) -> bytes:
    """The figure as `png`, `pdf` or `svg`; the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": drawn.name, "pdf.fonttype": 42}
    with matplotlib.rc_context(settings), _quietly():
        drawn.figure.savefig(buffer, format=kind, dpi=200, transparent=kind == "svg", metadata=METADATA[kind])
    return buffer.getvalue()


@contextmanager
def _quietly() -> Iterator[None]:
    """Where the font lacks a label's character, a box is drawn: no warning is needed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
