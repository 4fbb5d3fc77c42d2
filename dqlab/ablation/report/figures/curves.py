"""Learning curves: a panel a task, a line a setting, as in Diffusion-QL's figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dqlab.ablation.report.figures.style import (
    FEWER_LINES,
    MOST_LINES,
    TEXT_WIDTH,
    Drawn,
    choose,
    dress,
    legend,
    look,
    new_figure,
    plain,
    points_label,
    shorten,
)
from dqlab.ablation.statistics.analysis import Analysis, Curve

COLUMNS = 3


def learning_curves(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """Mean over seeds with its interval, over gradient steps; None where no run has finished."""
    if not any(curve.steps for curve in analysis.curves):
        return None
    ranks = analysis.rules[rules[0]].aggregates
    choice = choose(analysis.labels, analysis.base, ranks, rules[0], MOST_LINES, FEWER_LINES)
    figure = _panels(analysis, choice.labels, caveat)
    band = f"shaded: {analysis.confidence:.0%} bootstrap interval" if _has_bands(analysis) else "one seed: no interval"
    caption = f"Learning curves: mean over seeds of every evaluation ({band}). No checkpoint is selected here. "
    return Drawn("learning_curves", (caption + choice.note).strip(), figure)


def _has_bands(analysis: Analysis) -> bool:
    return any(curve.mean.low for curve in analysis.curves)


def _panels(analysis: Analysis, labels: Sequence[str], caveat: str) -> Any:
    columns = min(len(analysis.tasks), COLUMNS)
    rows = -(-len(analysis.tasks) // columns)
    width = TEXT_WIDTH if columns > 1 else 4.5
    below = 0.2 * -(-len(labels) // 4)
    figure = new_figure(width, 2.1 * rows + (0.7 if columns > 1 else 1.2) + below)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, (axes, task) in enumerate(zip(grid, analysis.tasks, strict=False)):
        curves = {curve.label: curve for curve in analysis.curves if curve.task == task}
        for label in labels:
            _line(axes, curves.get(label), look(label, labels, analysis.base), label)
        lowest = place + columns >= len(analysis.tasks)
        dress(axes, task, "gradient steps" if lowest else "", points_label(caveat) if place % columns == 0 else "")
        axes.xaxis.set_major_formatter(lambda value, _: steps_text(value))
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(left=0)
    for axes in grid[len(analysis.tasks) :]:
        axes.set_visible(False)
    legend(figure, grid[0], labels)
    return figure


def _line(axes: Any, curve: Curve | None, style: dict[str, Any], label: str) -> None:
    """A setting without runs has its place in the legend all the same."""
    name = plain(shorten(label))
    if curve is None or not curve.steps:
        axes.plot([], [], label=f"{name} (no run)", **style)
        return
    marker = {"marker": "o", "markersize": 2.5} if len(curve.steps) < 12 else {}
    axes.plot(curve.steps, curve.mean.point, label=name, **style, **marker)
    if curve.mean.low:
        axes.fill_between(
            curve.steps, curve.mean.low, curve.mean.high, color=style["color"], alpha=0.15, linewidth=0, zorder=1
        )


def steps_text(steps: float) -> str:
    """20k for 20,000, 1.5M for 1,500,000."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"
