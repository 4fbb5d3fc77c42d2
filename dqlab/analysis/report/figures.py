"""The figures of a report (scores, curves, profiles, an axis), and their common look."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dqlab.analysis.choosing import EVERY, MOST_SIZES
from dqlab.analysis.results import GridResults
from dqlab.analysis.statistics import Analysis, one_figure
from dqlab.errors import score_or_return
from dqlab.printing import counted
from dqlab.tracking.selection_rules import rule_name

INK, GRID = "#202428", "#9aa3ad"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito, without black and yellow
DASHES = ("-", "--", ":")
MARKERS = "osD^vP"
MOST_LINES, FEWER_LINES, MOST_ROWS = 12, 7, 40
TEXT_WIDTH = 7.0  # inches: the text of a page, two columns
COLUMNS = 3
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class ReportFigure:
    """A figure: its file's name, what it shows, and the matplotlib figure, laid out once for all formats."""

    name: str
    caption: str
    figure: Any

    def __post_init__(self) -> None:
        with _quietly():
            self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")


def figure_bytes(drawn: ReportFigure, kind: str) -> bytes:
    """The figure as `png`, `pdf` or `svg`; the same bytes for the same figure."""
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


class ShownFigure(Figure):
    """A figure that notebooks show."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=110)
        return content.getvalue()


def new_figure(width: float, height: float) -> Any:
    """A figure of its own canvas: pyplot and its state are not used."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_panels(
    titles: Sequence[str], height: float, x: str = "", y: str = "", most: int = COLUMNS, more: float = 0.5, **axes: bool
) -> tuple[Any, list[Any]]:
    """A figure with a panel a title, `most` beside each other, and these panels; `axes` may be `sharex`, `sharey`.

    A row of panels is `height` inches, what is above and below all of them `more`. `x` stands below the lowest panels,
    of three columns the middle one, `y` beside the leftmost.
    """
    columns = min(len(titles), most)
    rows = -(-len(titles) // columns)
    figure = new_figure(TEXT_WIDTH if columns > 1 else 4.5, height * rows + more)
    grid = figure.subplots(rows, columns, squeeze=False, **axes).flatten().tolist()
    for panel in grid[len(titles) :]:
        panel.set_visible(False)
    for place, title in enumerate(titles):
        lowest = place + columns >= len(titles)
        said = lowest and (columns != 3 or place % columns == 1)  # three of them would touch each other
        style_axes(grid[place], title, x if said else "", y if place % columns == 0 else "")
    return figure, grid[: len(titles)]


def style_axes(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Titles, a quiet grid, no box."""
    axes.set_title(plain_label(title), fontsize=8, color=INK)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2.5)
    axes.grid(color=GRID, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def plain_label(label: str, most: int = 38) -> str:
    """A label's start and end, which leave room for the drawing, without what matplotlib reads between dollars."""
    short = label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"
    return short.replace("$", r"\$")


def setting_style(label: str, labels: Sequence[str], base: str) -> dict[str, Any]:
    """Colour and line of a setting: the base is the thick line in ink."""
    if label == base:
        return {"color": INK, "linestyle": "-", "linewidth": 1.8, "zorder": 3}
    return {**line_style([other for other in labels if other != base].index(label)), "linewidth": 1.4, "zorder": 2}


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of one of several lines."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS) % len(DASHES)]}


def legend_below(figure: Any, axes: Any, labels: Sequence[str]) -> None:
    """One legend below all panels, as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    longest = max(len(plain_label(label)) for label in labels)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 13 / (longest + 7))))
    place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles, names, **place, fontsize=8, frameon=False, labelcolor=INK)


def points_label(caveat: str) -> str:
    """What a score's axis says."""
    name = "return" if score_or_return(caveat) == "return" else "normalised score"
    return f"{name} ({caveat})" if caveat else name


def choose_labels(analysis: Analysis, labels: Sequence[str], most: int, few: int) -> tuple[list[str], str]:
    """All labels, or the base and the best ones by IQM where more than `most` would be drawn; a sentence about that."""
    base, rule = analysis.results.base, analysis.settings.rules[0]
    if len(labels) <= most:
        return list(labels), ""
    best = analysis.figure(rule, "iqm").point.sort_values(ascending=False, kind="stable").index
    kept = {base, *[label for label in best if label != base][: few - 1]}
    note = f"Of {counted(len(labels), 'setting')}, the base and the {few - 1} with the highest IQM ({rule_name(rule)}) "
    return [label for label in labels if label in kept], note + "are drawn; the tables have all."


def draw_figures(analysis: Analysis) -> dict[str, ReportFigure]:
    """Name -> figure, of those that there are data for."""
    painters = (interval_figure, score_by_value, learning_curves, tuning_figure, profile_figure)
    drawn = [figure for paint in painters if (figure := paint(analysis)) is not None]
    return {figure.name: figure for figure in drawn}


def learning_curves(analysis: Analysis) -> ReportFigure | None:
    """Mean over seeds with its interval, over gradient steps; None where no run has finished."""
    curves = analysis.curves
    if curves.empty:
        return None
    results = analysis.results
    labels, note = choose_labels(analysis, results.labels, MOST_LINES, FEWER_LINES)
    more = (0.7 if len(results.tasks) > 1 else 1.2) + 0.2 * -(-len(labels) // 4)
    figure, panels = draw_panels(results.tasks, 2.1, "gradient steps", points_label(results.caveat), more=more)
    for axes, task in zip(panels, results.tasks, strict=True):
        _setting_lines(axes, curves[curves.task == task], "step", labels, results.base, {*curves.setting}, dots=12)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M; of whole numbers: 0.5 would be 500m
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.set_xlim(left=0)
    legend_below(figure, panels[0], labels)
    band = f"shaded: {analysis.settings.interval}" if curves.low.notna().any() else "one seed: no interval"
    caption = f"Learning curves: mean over seeds of every evaluation ({band}). No checkpoint is selected here. {note}"
    return ReportFigure("learning_curves", caption.strip(), figure)


def _setting_lines(
    axes: Any, found: pd.DataFrame, x: str, labels: Sequence[str], base: str, ran: Collection[str], dots: int = 0
) -> None:
    """A line a setting; one without a run on any task keeps its place in the legend."""
    for label in labels:
        own = found[found.setting == label]
        name = plain_label(label) + ("" if label in ran else " (no run)")
        _line(axes, own, x, name, setting_style(label, labels, base), dots=0 < len(own) < dots)


def _line(axes: Any, found: pd.DataFrame, x: str, name: str, style: dict[str, Any], dots: bool = False) -> None:
    """Points along an axis, with the band of their intervals."""
    marker = {"marker": "o", "markersize": 2.5} if dots else {}
    axes.plot(found[x], found.point, label=name, **style, **marker)
    if found.low.notna().any():
        axes.fill_between(found[x], found.low, found.high, color=style["color"], alpha=0.14, linewidth=0, zorder=1)


def _rule_panels(analysis: Analysis, height: float, x: str, y: str = "") -> tuple[Any, list[Any]]:
    """A panel a selection rule, with the same axes."""
    titles = [rule_name(rule) for rule in analysis.settings.rules]
    return draw_panels(titles, height, x, y, len(titles), sharex=True, sharey=True)


def profile_figure(analysis: Analysis) -> ReportFigure | None:
    """Share of runs with a score above each threshold; None where no run has finished."""
    found = analysis.profiles[analysis.profiles.rule.isin(analysis.settings.rules)]
    if found.empty:
        return None
    results = analysis.results
    chosen, note = choose_labels(analysis, results.labels, MOST_LINES, FEWER_LINES)
    labels = [label for label in chosen if label in set(found.setting)]
    height = 2.0 + 0.2 * -(-len(labels) // 4)
    figure, panels = _rule_panels(analysis, height, points_label(results.caveat), "share of runs above")
    for axes, rule in zip(panels, analysis.settings.rules, strict=True):
        _setting_lines(axes, found[found.rule == rule], "threshold", labels, results.base, labels)
        axes.set_ylim(-0.02, 1.02)
    legend_below(figure, panels[0], labels)
    caption = (
        f"Performance profiles: share of runs whose score is above each value, with {analysis.settings.interval}s, "
    )
    caption += f"by selection rule. Higher is better. {note}"
    return ReportFigure("profiles", caption.strip(), figure)


def interval_figure(analysis: Analysis) -> ReportFigure | None:
    """IQM of every setting with its interval, rows in the grid's order; None where no run has finished."""
    base, known = analysis.results.base, {rule: analysis.figure(rule, "iqm") for rule in analysis.settings.rules}
    chosen, note = choose_labels(analysis, analysis.results.labels, MOST_ROWS, MOST_ROWS)
    labels = [label for label in chosen if any(label in found.index for found in known.values())]
    if not labels:
        return None
    x = f"IQM, {points_label(analysis.results.caveat)}"
    figure, panels = _rule_panels(analysis, 0.4 + 0.24 * max(len(labels), 2), x)
    for axes, found in zip(panels, known.values(), strict=True):
        axes.use_sticky_edges = False
        for row in found[found.index.isin(labels)].itertuples():
            place, colour = labels.index(row.Index), INK if row.Index == base else COLOURS[0]
            if not math.isnan(row.low):
                axes.barh(place, row.high - row.low, 0.55, row.low, color=colour, alpha=0.35, linewidth=0)
            axes.plot([row.point], [place], marker="|", markersize=9, markeredgewidth=2, color=colour, linestyle="")
        axes.set_yticks(range(len(labels)), map(plain_label, labels), fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)
    caption = (
        f"Interquartile mean over tasks and seeds with its {analysis.settings.interval}, by selection rule; the base, "
    )
    return ReportFigure("iqm", f"{caption}{base}, in the text's colour. {note}".strip(), figure)


def score_by_value(analysis: Analysis) -> ReportFigure | None:
    """IQM over the axis' values, a panel a rule; None without exactly one numeric axis, or without a run."""
    results, axis = analysis.results, numeric_axis(analysis.results)
    figures = [analysis.figure(rule, "iqm") for rule in analysis.settings.rules]
    if axis is None or all(each.empty for each in figures):
        return None
    every, scores = lines_of(results, axis), f"IQM, {points_label(results.caveat)}"
    chosen = sorted(every, key=lambda name: results.base not in [label for _, label in every[name]])[:FEWER_LINES]
    lines = {name: line for name, line in every.items() if name in chosen}
    figure, panels = _rule_panels(analysis, 2.0 + 0.3 * (len(lines) > 1), plain_label(axis), scores)
    values = sorted({value for line in lines.values() for value, _ in line})
    for axes, iqm in zip(panels, figures, strict=True):
        for place, (name, line) in enumerate(lines.items()):
            known = [(value, label) for value, label in line if label in iqm.index]
            found = iqm.loc[[label for _, label in known]]
            bars = np.nan_to_num([found.point - found.low, found.high - found.point]).clip(min=0)
            style = {**line_style(place), "marker": MARKERS[place % len(MARKERS)], "markersize": 4, "linewidth": 1.3}
            drawn = {"label": plain_label(name) or None, "capsize": 3, **style}
            axes.errorbar([value for value, _ in known], found.point, bars, **drawn)
        if len(values) > 2 and values[0] > 0 and values[-1] >= 10 * values[0]:
            axes.set_xscale("log")
            axes.minorticks_off()
        if len(values) <= 8:
            axes.set_xticks(values, [f"{value:g}" for value in values], color=INK)
    legend_below(figure, panels[0], list(lines))
    caption = f"IQM over tasks and seeds against {axis}, with {analysis.settings.interval}s, by selection rule."
    caption += f" {len(lines)} of {len(every)} lines are drawn." if len(lines) < len(every) else ""
    return ReportFigure("score_by_value", caption, figure)


def numeric_axis(results: GridResults) -> str | None:
    """The only axis whose points are numbers, and different ones; None where there are none or several."""
    numbers = {axis: pd.to_numeric(pd.Series(texts), errors="coerce") for axis, texts in results.axes.items()}
    found = [axis for axis, known in numbers.items() if len(known) > 1 and np.isfinite(known).all()]
    return found[0] if len(found) == 1 else None


def lines_of(results: GridResults, axis: str) -> dict[str, list[tuple[float, str]]]:
    """A line of values and settings for each combination of the other axes' points."""
    points = {status.cell.label: status.cell.points for status in results.statuses}
    lines: dict[str, list[tuple[float, str]]] = {}
    for label in results.labels:
        own = points.get(label, {})
        if axis in own:
            others = ", ".join(point for name, point in own.items() if name != axis)
            lines.setdefault(others, []).append((float(own[axis]), label))
    return {name: sorted(line) for name, line in lines.items()}


def tuning_figure(analysis: Analysis) -> ReportFigure | None:
    """Score over the number of policies that a tuner evaluates, by the first rule; None where there is no choice."""
    rule, caveat = analysis.settings.rules[0], analysis.results.caveat
    found = analysis.tuning[analysis.tuning.rule == rule]
    found = found[(found.axis == EVERY) | found.held_out.notna()]
    groups = {axis: own for axis, own in found.groupby("axis", sort=False) if own.policies.max() > 1}
    chosen = list(groups)[:COLUMNS]
    if not chosen:
        return None
    titles = ["all settings" if axis == EVERY else f"{axis}: held out" for axis in chosen]
    figure, panels = draw_panels(titles, 2.5, "policies evaluated", points_label(caveat), sharey=True)
    for axes, axis in zip(panels, chosen, strict=True):
        own = groups[axis]
        lines = []
        for place, (point, each) in enumerate(islice(own.groupby("point", sort=False), MOST_LINES)):
            lines.append((plain_label(str(point), 20), line_style(place), each, "held_out"))
        if axis == EVERY:
            seen = {"color": COLOURS[1], "linestyle": DASHES[1]}  # above, where both are one
            held_out = [("held out", {"color": INK}, own, "held_out")] if own.held_out.notna().any() else []
            lines = [*held_out, ("seen", seen, own, "seen")]
        for name, style, each, scored in lines:
            points = one_figure(each, scored).assign(policies=each.policies)
            _line(axes, points, "policies", name, {"linewidth": 1.4, **style}, dots=True)
        if (most := int(own.policies.max())) > MOST_SIZES:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axes.set_xticks(range(1, most + 1, 1 + most // 9))
        axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    caption = "Tuning budget: mean over tasks of the best of so many policies, chosen on each task by itself, "
    caption += f"selection rule {rule_name(rule)}. A policy is a setting with one seed. "
    caption += "Seen: in the evaluation that it is chosen by, which is too high."
    caption += " Held out: with the other seeds of the chosen setting." if found.held_out.notna().any() else ""
    caption += f" Shaded: {analysis.settings.interval}." if found.seen_low.notna().any() else ""
    return ReportFigure("tuning", caption, figure)
