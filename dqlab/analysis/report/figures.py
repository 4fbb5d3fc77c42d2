"""The figures of a report (scores, curves, profiles, improvement over the base, an axis), and their common look."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from dqlab.analysis.report.words import counted
from dqlab.analysis.results import GridResults
from dqlab.analysis.statistics.analysis import Aggregates, Analysis, Estimate, Profiles, ScoreCurve
from dqlab.envs.caveats import score_or_return
from dqlab.tracking.selection_rules import rule_name

INK, GRID = "#202428", "#9aa3ad"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito, without black and yellow
DASHES = ("-", "--", ":")
MARKERS = "osD^vP"
MOST_LINES, FEWER_LINES, MOST_ROWS = 12, 7, 40
TEXT_WIDTH = 7.0  # inches: the text of a page, two columns


@dataclass(frozen=True)
class Drawn:
    """A figure: its file's name, what it shows, and the matplotlib figure."""

    name: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class Choice:
    """The settings that are drawn, and a sentence about those that are not."""

    labels: tuple[str, ...]
    note: str = ""


def choose_labels(
    labels: Sequence[str], base: str, ranks: Mapping[str, Aggregates], rule: str, most: int, few: int
) -> Choice:
    """All labels, or the base and the best ones by IQM where more than `most` would be drawn."""
    if len(labels) <= most:
        return Choice(tuple(labels))
    best = sorted(ranks, key=lambda label: -ranks[label].iqm.point)
    kept = {base, *[label for label in best if label != base][: few - 1]}
    note = f"Of {counted(len(labels), 'setting')}, the base and the {few - 1} with the highest IQM ({rule_name(rule)}) "
    return Choice(tuple(label for label in labels if label in kept), note + "are drawn; the tables have all.")


def new_figure(width: float, height: float) -> Any:
    """A figure of its own canvas: pyplot and its state are not used."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def setting_style(label: str, labels: Sequence[str], base: str) -> dict[str, Any]:
    """Colour and line of a setting: the base is the thick line in ink."""
    if label == base:
        return {"color": INK, "linestyle": "-", "linewidth": 1.8, "zorder": 3}
    place = [other for other in labels if other != base].index(label)
    dashes = DASHES[place // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "linewidth": 1.4, "zorder": 2}


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


def plain_label(text: str) -> str:
    """A label as it is: without the mathematics that matplotlib reads between dollars."""
    return text.replace("$", r"\$")


def shorten_label(label: str, most: int = 38) -> str:
    """A label that leaves room for the drawing; its end tells settings apart as much as its start."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


def legend_below(figure: Any, axes: Any, labels: Sequence[str]) -> None:
    """One legend below all panels, as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    longest = max(len(shorten_label(label)) for label in labels)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 13 / (longest + 7))))
    drawn = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    for text in drawn.get_texts():
        text.set_color(INK)


def points_label(caveat: str) -> str:
    """What a score's axis says."""
    name = "return" if score_or_return(caveat) == "return" else "normalised score"
    return f"{name} ({caveat})" if caveat else name


COLUMNS = 3


def learning_curves(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """Mean over seeds with its interval, over gradient steps; None where no run has finished."""
    if not any(curve.steps for curve in analysis.curves):
        return None
    ranks = analysis.rules[rules[0]].aggregates
    choice = choose_labels(analysis.labels, analysis.base, ranks, rules[0], MOST_LINES, FEWER_LINES)
    figure = _curve_panels(analysis, choice.labels, caveat)
    band = f"shaded: {analysis.confidence:.0%} bootstrap interval" if _has_bands(analysis) else "one seed: no interval"
    caption = f"Learning curves: mean over seeds of every evaluation ({band}). No checkpoint is selected here. "
    return Drawn("learning_curves", (caption + choice.note).strip(), figure)


def _has_bands(analysis: Analysis) -> bool:
    return any(curve.mean.low for curve in analysis.curves)


def _curve_panels(analysis: Analysis, labels: Sequence[str], caveat: str) -> Any:
    columns = min(len(analysis.tasks), COLUMNS)
    rows = -(-len(analysis.tasks) // columns)
    width = TEXT_WIDTH if columns > 1 else 4.5
    below = 0.2 * -(-len(labels) // 4)
    figure = new_figure(width, 2.1 * rows + (0.7 if columns > 1 else 1.2) + below)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, (axes, task) in enumerate(zip(grid, analysis.tasks, strict=False)):
        curves = {curve.label: curve for curve in analysis.curves if curve.task == task}
        for label in labels:
            _line(axes, curves.get(label), setting_style(label, labels, analysis.base), label)
        lowest = place + columns >= len(analysis.tasks)
        style_axes(axes, task, "gradient steps" if lowest else "", points_label(caveat) if place % columns == 0 else "")
        axes.xaxis.set_major_formatter(lambda value, _: steps_text(value))
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(left=0)
    for axes in grid[len(analysis.tasks) :]:
        axes.set_visible(False)
    legend_below(figure, grid[0], labels)
    return figure


def _line(axes: Any, curve: ScoreCurve | None, style: dict[str, Any], label: str) -> None:
    """A setting without runs has its place in the legend all the same."""
    name = plain_label(shorten_label(label))
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


def profile_figure(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """Share of runs with a score above each threshold; None where no run has finished."""
    if not any(analysis.rules[rule].profiles.shares for rule in rules):
        return None
    ranks = analysis.rules[rules[0]].aggregates
    choice = choose_labels(analysis.labels, analysis.base, ranks, rules[0], MOST_LINES, FEWER_LINES)
    labels = [label for label in choice.labels if any(label in analysis.rules[rule].profiles.shares for rule in rules)]
    figure = new_figure(TEXT_WIDTH, 2.5 + 0.2 * -(-len(labels) // 4))
    grid = figure.subplots(1, len(rules), sharex=True, sharey=True, squeeze=False)[0]
    for place, (axes, rule) in enumerate(zip(grid, rules, strict=True)):
        _lines(axes, analysis.rules[rule].profiles, labels, analysis.base)
        style_axes(axes, rule_name(rule), points_label(caveat), "share of runs above" if place == 0 else "")
        axes.set_ylim(-0.02, 1.02)
    legend_below(figure, max(grid, key=lambda axes: len(axes.lines)), labels)
    caption = f"Performance profiles: share of runs whose score is above each value, with {analysis.confidence:.0%} "
    caption += f"bootstrap bands, by selection rule. Higher is better. {choice.note}"
    return Drawn("profiles", caption.strip(), figure)


def _lines(axes: Any, found: Profiles, labels: Sequence[str], base: str) -> None:
    for label in labels:
        if (band := found.shares.get(label)) is None:
            continue
        style = setting_style(label, labels, base)
        axes.plot(found.thresholds, band.point, label=plain_label(shorten_label(label)), **style)
        if band.low:
            axes.fill_between(
                found.thresholds, band.low, band.high, color=style["color"], alpha=0.12, linewidth=0, zorder=1
            )


Find = Callable[[str, str], Estimate | None]
UNDECIDED = "#7b8794"
VERDICTS = {"better": COLOURS[2], "worse": COLOURS[1]}


def interval_figure(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """IQM of every setting with its interval; None where no run has finished."""

    def iqm(rule: str, label: str) -> Estimate | None:
        found = analysis.rules[rule].aggregates.get(label)
        return found.iqm if found else None

    choice = _rows(analysis, rules, analysis.labels)
    drawn = [label for label in choice.labels if any(iqm(rule, label) for rule in rules)]
    if not drawn:
        return None
    figure = _row_panels(rules, drawn, iqm, lambda _, label: INK if label == analysis.base else COLOURS[0])
    low, high = _span([found for rule in rules for label in drawn if (found := iqm(rule, label))])
    for axes in figure.axes:
        axes.set_xlim(low, high)
        axes.set_xlabel(f"IQM, {points_label(caveat)}", fontsize=8)
    caption = f"Interquartile mean over tasks and seeds with its {analysis.confidence:.0%} bootstrap interval, by "
    caption += f"selection rule; the base, {analysis.base}, in the text's colour. {choice.note}"
    return Drawn("iqm", caption.strip(), figure)


def improvement_figure(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """Probability that a setting beats the base; None where nothing can be compared."""

    def probability(rule: str, label: str) -> Estimate | None:
        found = analysis.rules[rule].comparisons.rows.get(label)
        return found.probability if found else None

    def colour(rule: str, label: str) -> str:
        return VERDICTS.get(analysis.rules[rule].comparisons.rows[label].verdict, UNDECIDED)

    choice = _rows(analysis, rules, [label for label in analysis.labels if label != analysis.base])
    drawn = [label for label in choice.labels if any(probability(rule, label) for rule in rules)]
    if not drawn:
        return None
    figure = _row_panels(rules, drawn, probability, colour)
    for axes in figure.axes:
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(f"P(better than {plain_label(shorten_label(analysis.base, 20))})", fontsize=8)
    caption = f"Probability that a run of the setting beats one of the base, {analysis.base}, on a task drawn at "
    caption += f"random, with its {analysis.confidence:.0%} bootstrap interval, by selection rule. Green: better, "
    caption += f"orange: worse after {analysis.rules[rules[0]].comparisons.correction}'s correction; grey: undecided. "
    caption += f"{f'Scores: {caveat}. ' if caveat else ''}{choice.note}"
    return Drawn("improvement", caption.strip(), figure)


def _span(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """From the lowest to the highest end, with some room: the same for all panels, so that rules can be compared."""
    ends = [end for each in estimates for end in (each.point, each.low, each.high) if end is not None]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _rows(analysis: Analysis, rules: Sequence[str], labels: Sequence[str]) -> Any:
    ranks = analysis.rules[rules[0]].aggregates
    return choose_labels(labels, analysis.base, ranks, rules[0], MOST_ROWS, MOST_ROWS)


def _row_panels(rules: Sequence[str], labels: Sequence[str], find: Find, colour: Callable[[str, str], str]) -> Any:
    """A point and a bar for what is found; rows from top to bottom in the grid's order."""
    figure = new_figure(TEXT_WIDTH, 0.9 + 0.24 * max(len(labels), 2))
    grid = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, rule in zip(grid, rules, strict=True):
        for place, label in enumerate(labels):
            if (estimate := find(rule, label)) is not None:
                _bar(axes, place, estimate, colour(rule, label))
        style_axes(axes, rule_name(rule))
        axes.set_yticks(range(len(labels)), [plain_label(shorten_label(label)) for label in labels], fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)
    return figure


def _bar(axes: Any, place: int, estimate: Estimate, colour: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.barh(place, estimate.high - estimate.low, 0.55, estimate.low, color=colour, alpha=0.35, linewidth=0)
    axes.plot([estimate.point], [place], marker="|", markersize=9, markeredgewidth=2, color=colour, linestyle="")


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
        style_axes(axes, rule_name(rule), plain_label(axis), f"IQM, {points_label(caveat)}" if place == 0 else "")
        _scale(axes, sorted({value for line in lines.values() for value, _ in line}))
    if len(lines) > 1:
        legend_below(figure, grid[0], list(lines))
    caption = f"IQM over tasks and seeds against {axis}, with {analysis.confidence:.0%} bootstrap intervals, by "
    return Drawn("score_by_value", f"{caption}selection rule.", figure)


def numeric_axis(results: GridResults) -> str | None:
    """The only axis whose points are numbers, and different ones; None where there are none or several."""
    found = [axis for axis, texts in results.axes.items() if len(texts) > 1 and all(map(_is_number, texts))]
    return found[0] if len(found) == 1 else None


def lines_of(results: GridResults, axis: str) -> Lines:
    """A line for each combination of the other axes' points, at most as many as can be told apart."""
    every = (*results.results, *results.failures, *results.pending)
    points = {status.cell.label: status.cell.points for status in every}
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
        label = plain_label(shorten_label(name)) or None
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


METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def draw_figures(results: GridResults, analysis: Analysis, rules: Sequence[str]) -> dict[str, Drawn]:
    """Name -> figure, of those that there are data for."""
    painters = (
        interval_figure,
        partial(score_by_value, results=results),
        learning_curves,
        profile_figure,
        improvement_figure,
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


def figure_bytes(drawn: Drawn, kind: str) -> bytes:
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
