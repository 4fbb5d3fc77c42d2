"""What all figures share: size, type, colours that the colour-blind tell apart, and who is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dqlab.ablation.report.words import count, rule_name
from dqlab.ablation.statistics.analysis import Aggregates
from dqlab.envs.tasks import quantity

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


def choose(labels: Sequence[str], base: str, ranks: Mapping[str, Aggregates], rule: str, most: int, few: int) -> Choice:
    """All labels, or the base and the best ones by IQM where more than `most` would be drawn."""
    if len(labels) <= most:
        return Choice(tuple(labels))
    best = sorted(ranks, key=lambda label: -ranks[label].iqm.point)
    kept = {base, *[label for label in best if label != base][: few - 1]}
    note = f"Of {count(len(labels), 'setting')}, the base and the {few - 1} with the highest IQM ({rule_name(rule)}) "
    return Choice(tuple(label for label in labels if label in kept), note + "are drawn; the tables have all.")


def new_figure(width: float, height: float) -> Any:
    """A figure of its own canvas: pyplot and its state are not used."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look(label: str, labels: Sequence[str], base: str) -> dict[str, Any]:
    """Colour and line of a setting: the base is the thick line in ink."""
    if label == base:
        return {"color": INK, "linestyle": "-", "linewidth": 1.8, "zorder": 3}
    place = [other for other in labels if other != base].index(label)
    dashes = DASHES[place // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "linewidth": 1.4, "zorder": 2}


def dress(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Titles, a quiet grid, no box."""
    axes.set_title(plain(title), fontsize=8, color=INK)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2.5)
    axes.grid(color=GRID, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def plain(text: str) -> str:
    """A label as it is: without the mathematics that matplotlib reads between dollars."""
    return text.replace("$", r"\$")


def shorten(label: str, most: int = 38) -> str:
    """A label that leaves room for the drawing; its end tells settings apart as much as its start."""
    return label if len(label) <= most else f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


def legend(figure: Any, axes: Any, labels: Sequence[str]) -> None:
    """One legend below all panels, as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    longest = max(len(shorten(label)) for label in labels)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 13 / (longest + 7))))
    drawn = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    for text in drawn.get_texts():
        text.set_color(INK)


def points_label(caveat: str) -> str:
    """What a score's axis says."""
    name = "return" if quantity(caveat) == "return" else "normalised score"
    return f"{name} ({caveat})" if caveat else name
