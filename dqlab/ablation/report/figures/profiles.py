"""Performance profiles: the share of runs above each score, a panel a selection rule."""

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
from dqlab.ablation.report.words import rule_name
from dqlab.ablation.statistics.analysis import Analysis, Profiles


def profiles(analysis: Analysis, rules: Sequence[str], caveat: str) -> Drawn | None:
    """Share of runs with a score above each threshold; None where no run has finished."""
    if not any(analysis.rules[rule].profiles.shares for rule in rules):
        return None
    ranks = analysis.rules[rules[0]].aggregates
    choice = choose(analysis.labels, analysis.base, ranks, rules[0], MOST_LINES, FEWER_LINES)
    labels = [label for label in choice.labels if any(label in analysis.rules[rule].profiles.shares for rule in rules)]
    figure = new_figure(TEXT_WIDTH, 2.5 + 0.2 * -(-len(labels) // 4))
    grid = figure.subplots(1, len(rules), sharex=True, sharey=True, squeeze=False)[0]
    for place, (axes, rule) in enumerate(zip(grid, rules, strict=True)):
        _lines(axes, analysis.rules[rule].profiles, labels, analysis.base)
        dress(axes, rule_name(rule), points_label(caveat), "share of runs above" if place == 0 else "")
        axes.set_ylim(-0.02, 1.02)
    legend(figure, max(grid, key=lambda axes: len(axes.lines)), labels)
    caption = f"Performance profiles: share of runs whose score is above each value, with {analysis.confidence:.0%} "
    caption += f"bootstrap bands, by selection rule. Higher is better. {choice.note}"
    return Drawn("profiles", caption.strip(), figure)


def _lines(axes: Any, found: Profiles, labels: Sequence[str], base: str) -> None:
    for label in labels:
        if (band := found.shares.get(label)) is None:
            continue
        style = look(label, labels, base)
        axes.plot(found.thresholds, band.point, label=plain(shorten(label)), **style)
        if band.low:
            axes.fill_between(
                found.thresholds, band.low, band.high, color=style["color"], alpha=0.12, linewidth=0, zorder=1
            )
