"""Score against the value of the grid's numeric axis, where exactly one axis has numbers for points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from dqlab.ablation.report.figures.style import (
    COLOURS,
    DASHES,
    FEWER_LINES,
    INK,
    MARKERS,
    TEXT_WIDTH,
    Drawn,
    dress,
    legend,
    new_figure,
    plain,
    points_label,
    shorten,
)
from dqlab.ablation.report.words import rule_name
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import Analysis, Estimate

Lines = Mapping[str, Sequence[tuple[float, str]]]
"""Name of a line -> value on the axis and label of the setting, in order."""


def score_by_value(analysis: Analysis, results: GridResults, rules: Sequence[str], caveat: str) -> Drawn | None:
    """IQM over the axis' values, a panel a rule; None without exactly one numeric axis, or without a run."""
    axis = numeric_axis(results)
    if axis is None or not any(analysis.rules[rule].aggregates for rule in rules):
        return None
    lines = lines_of(results, axis)
    figure = new_figure(TEXT_WIDTH if len(rules) > 1 else 4.0, 2.5 + (0.3 if len(lines) > 1 else 0.0))
    grid = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for place, (axes, rule) in enumerate(zip(grid, rules, strict=True)):
        _panel(axes, lines, {label: found.iqm for label, found in analysis.rules[rule].aggregates.items()})
        dress(axes, rule_name(rule), plain(axis), f"IQM, {points_label(caveat)}" if place == 0 else "")
        _scale(axes, sorted({value for line in lines.values() for value, _ in line}))
    if len(lines) > 1:
        legend(figure, grid[0], list(lines))
    caption = f"IQM over tasks and seeds against {axis}, with {analysis.confidence:.0%} bootstrap intervals, by "
    return Drawn("score_by_value", f"{caption}selection rule.", figure)


def numeric_axis(results: GridResults) -> str | None:
    """The only axis whose points are numbers, and different ones; None where there are none or several."""
    found = [axis for axis, texts in results.axes.items() if len(texts) > 1 and all(map(_is_number, texts))]
    return found[0] if len(found) == 1 else None


def lines_of(results: GridResults, axis: str) -> Lines:
    """A line for each combination of the other axes' points, at most as many as can be told apart."""
    cells = [*(r.cell for r in results.results), *(f.cell for f in results.failures), *results.pending]
    points = {cell.label: cell.points for cell in cells}
    lines: dict[str, list[tuple[float, str]]] = {}
    for label in results.labels:
        own = points.get(label, {})
        if axis in own:
            others = ", ".join(point for name, point in own.items() if name != axis)
            lines.setdefault(others, []).append((float(own[axis]), label))
    return {name: sorted(line) for name, line in list(lines.items())[:FEWER_LINES]}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _panel(axes: Any, lines: Lines, iqm: Mapping[str, Estimate]) -> None:
    for place, (name, line) in enumerate(lines.items()):
        found = [(value, iqm[label]) for value, label in line if label in iqm]
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS)]}
        marker = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4, "capsize": 3, "linewidth": 1.3}
        heights = [estimate.point for _, estimate in found]
        label = plain(shorten(name)) or None
        axes.errorbar([value for value, _ in found], heights, _bars(found), label=label, **style, **marker)


def _bars(found: Sequence[tuple[float, Estimate]]) -> Any:
    """Lengths of the bars below and above each point."""
    low = [e.point - (e.point if e.low is None else e.low) for _, e in found]
    high = [(e.point if e.high is None else e.high) - e.point for _, e in found]
    return [[max(0.0, length) for length in side] for side in (low, high)]


def _scale(axes: Any, values: Sequence[float]) -> None:
    """The values as ticks; a logarithmic axis where they lie more evenly on it."""
    if len(values) > 2 and values[0] > 0 and _unevenness([math.log(value) for value in values]) < _unevenness(values):
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values], color=INK)


def _unevenness(values: Sequence[float]) -> float:
    """How much the gaps between values differ: largest over smallest."""
    gaps = [after - before for before, after in pairwise(values)]
    return max(gaps) / min(gaps)
