"""Figures with a row a setting and a panel a selection rule: aggregates and probabilities of improvement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dqlab.ablation.report.figures.style import (
    COLOURS,
    INK,
    MOST_ROWS,
    TEXT_WIDTH,
    Drawn,
    choose,
    dress,
    new_figure,
    plain,
    points_label,
    shorten,
)
from dqlab.ablation.report.words import rule_name
from dqlab.ablation.statistics.analysis import Analysis, Estimate

Find = Callable[[str, str], Estimate | None]
UNDECIDED = "#7b8794"
VERDICTS = {"better": COLOURS[2], "worse": COLOURS[1]}


def intervals(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """IQM of every setting with its interval; None where no run has finished."""

    def iqm(rule: str, label: str) -> Estimate | None:
        found = analysis.rules[rule].aggregates.get(label)
        return found.iqm if found else None

    choice = _rows(analysis, rules, analysis.labels)
    drawn = [label for label in choice.labels if any(iqm(rule, label) for rule in rules)]
    if not drawn:
        return None
    figure = _panels(rules, drawn, iqm, lambda _, label: INK if label == analysis.base else COLOURS[0])
    low, high = _span([found for rule in rules for label in drawn if (found := iqm(rule, label))])
    for axes in figure.axes:
        axes.set_xlim(low, high)
        axes.set_xlabel(f"IQM, {points_label(caveat)}", fontsize=8)
    caption = f"Interquartile mean over tasks and seeds with its {analysis.confidence:.0%} bootstrap interval, by "
    caption += f"selection rule; the base, {analysis.base}, in the text's colour. {choice.note}"
    return Drawn("iqm", caption.strip(), figure)


def improvement(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
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
    figure = _panels(rules, drawn, probability, colour)
    for axes in figure.axes:
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(f"P(better than {plain(shorten(analysis.base, 20))})", fontsize=8)
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
    return choose(labels, analysis.base, ranks, rules[0], MOST_ROWS, MOST_ROWS)


def _panels(rules: Sequence[str], labels: Sequence[str], find: Find, colour: Callable[[str, str], str]) -> Any:
    """A point and a bar for what is found; rows from top to bottom in the grid's order."""
    figure = new_figure(TEXT_WIDTH, 0.9 + 0.24 * max(len(labels), 2))
    grid = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for axes, rule in zip(grid, rules, strict=True):
        for place, label in enumerate(labels):
            if (estimate := find(rule, label)) is not None:
                _bar(axes, place, estimate, colour(rule, label))
        dress(axes, rule_name(rule))
        axes.set_yticks(range(len(labels)), [plain(shorten(label)) for label in labels], fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)
    return figure


def _bar(axes: Any, place: int, estimate: Estimate, colour: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.barh(place, estimate.high - estimate.low, 0.55, estimate.low, color=colour, alpha=0.35, linewidth=0)
    axes.plot([estimate.point], [place], marker="|", markersize=9, markeredgewidth=2, color=colour, linestyle="")
