"""Figures of what an inspection saw inside of policies: actions, values, the denoising chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dqlab.analysis.report import figures
from dqlab.analysis.statistics import Analysis
from dqlab.errors import RunError

if TYPE_CHECKING:
    from dqlab.tracking.records import InspectionRecord

Inspections = Mapping[str, "InspectionRecord"]
"""What was seen of several policies, by the labels of their settings; the first one is drawn in ink."""
MOST_DIMENSIONS, MOST_POINTS, COLUMNS = 12, 6, 4
ACTION_BINS = np.linspace(-1.0, 1.0, 31)
NOISE_BINS = np.linspace(-2.0, 2.0, 34)
MOST_TASKS, MOST_SETTINGS, FEWER_SETTINGS = 3, 6, 5
NO_VALUES = "There are no values to be drawn: no critics, or every episode was cut by its step limit too early."


def inspection_figures(analysis: Analysis) -> dict[str, figures.ReportFigure]:
    """Name -> figure of what is inside of a grid's policies, of its first tasks."""
    drawn = []
    for task, every in [item for item in analysis.results.inspections.items() if item[1]][:MOST_TASKS]:
        labels, note = figures.choose_labels(analysis, list(every), MOST_SETTINGS, FEWER_SETTINGS)
        seen = {label: every[label] for label in labels}
        where = f"{task}, each setting's lowest seed that has finished, last checkpoint"
        valued = any(each["values"] for each in seen.values())
        alike = len({*map(_width, seen.values())}) == 1
        whose = "in the same states" if alike else "(the first of each chunk) in states"
        said = f"Actions of policies and data {whose} of the data ({where}). {note}".strip()
        said += "" if valued else f" {NO_VALUES}"
        drawn.append(figures.ReportFigure(f"actions_{task}", said, actions_figure(seen)))
        if valued:
            said = f"Values that critics predicted along episodes, over the discounted returns that came ({where}). "
            said += f"Above the line they were too high. {note}"
            drawn.append(figures.ReportFigure(f"values_{task}", said.strip(), values_figure(seen)))
        for label, each in [item for item in seen.items() if item[1]["chain"]][:1]:
            said = f"How noise becomes actions in one state: {label} ({where})."
            drawn.append(figures.ReportFigure(f"chain_{task}", said, chain_figure(each)))
    return {figure.name: figure for figure in drawn}


def actions_figure(seen: Inspections) -> Any:
    """Distribution of each action dimension: of the data, filled, and of policies in the same states, a line each."""
    first = next(iter(seen.values()))
    data = np.array(first["data_actions"])[:, : min(map(_width, seen.values()))]  # of chunks as many as all have
    figure, panels = figures.draw_panels(_dimensions(data), 1.5, most=COLUMNS)
    for dimension, axes in enumerate(panels):
        axes.hist(data[:, dimension], ACTION_BINS, density=True, color=figures.GRID, alpha=0.55, label="data")
        for label, each in seen.items():
            own, _ = np.histogram(np.array(each["policy_actions"])[:, dimension], ACTION_BINS, density=True)
            style = figures.setting_style(label, list(seen), next(iter(seen)))
            axes.stairs(own, ACTION_BINS, label=figures.plain_label(label), **style)
        axes.set_yticks([])
    figures.legend_below(figure, panels[0], ["data", *seen])
    return figure


def _width(record: InspectionRecord) -> int:
    """How many numbers an action has, or a chunk of some."""
    return len(record["policy_actions"][0])


def values_figure(seen: Inspections) -> Any:
    """Values that critics predicted along episodes, over the discounted returns that came; a panel a policy."""
    known = {label: each for label, each in seen.items() if each["values"]}
    if not known:
        raise RunError(NO_VALUES)
    titles = list(map(figures.plain_label, known))
    figure, panels = figures.draw_panels(titles, 1.9, "discounted return", "predicted value")
    for each, axes in zip(known.values(), panels, strict=True):
        returns, values = np.array(each["returns"]), np.array(each["values"])
        ends = [min(returns.min(), values.min()), max(returns.max(), values.max())]
        axes.plot(ends, ends, color=figures.GRID, linewidth=1)
        axes.scatter(returns, values, s=7, alpha=0.5, linewidths=0, color=figures.COLOURS[0])
        over = (values - returns).mean()
        axes.text(0.03, 0.97, f"bias {over:+.3g}", transform=axes.transAxes, va="top", fontsize=7, color=figures.INK)
    return figure


def chain_figure(seen: InspectionRecord) -> Any:
    """How noise becomes actions in one state: clouds where actions are two numbers, else a strip for each of them."""
    if not seen["chain"]:
        raise RunError(f"The algorithm '{seen['algorithm']}' has no diffusion policy: there is no chain.")
    points, steps = np.array(seen["chain"]), seen["chain_steps"]
    if points.shape[2] == 2:
        kept = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
        titles = ["noise", *(f"after step {steps[point]}" for point in kept[1:-1]), "actions"]
        figure, panels = figures.draw_panels(titles, 1.5, most=len(kept))
        for point, axes in zip(kept, panels, strict=True):
            axes.scatter(*points[point].T, s=4, alpha=0.6, linewidths=0, color=figures.COLOURS[0])
            axes.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
        return figure
    figure, panels = figures.draw_panels(_dimensions(points), 1.5, "denoising steps done", most=COLUMNS)
    clear = LinearSegmentedColormap.from_list("clear", [to_rgba(figures.COLOURS[0], alpha) for alpha in (0.0, 1.0)])
    for dimension, axes in enumerate(panels):
        strips = [np.histogram(np.clip(each[:, dimension], -2, 2), NOISE_BINS)[0] for each in points]
        image = np.array([strip / strip.max() for strip in strips]).T
        axes.pcolormesh(np.arange(len(points) + 1) - 0.5, NOISE_BINS, image, cmap=clear, rasterized=True)
        axes.set_xticks(range(0, len(points), 2), [str(step) for step in steps[::2]])
    return figure


def _dimensions(actions: NDArray[np.float64]) -> list[str]:
    """Titles of as many dimensions of actions as are shown; where there are more, they say so."""
    there = actions.shape[-1]
    of = f" of {there}" if there > MOST_DIMENSIONS else ""
    return [f"action {dimension + 1}{of}" for dimension in range(min(there, MOST_DIMENSIONS))]


INSIDE: Mapping[str, Callable[[Inspections], Figure]] = {
    "actions": actions_figure,
    "values": values_figure,
    "chain": lambda seen: chain_figure(next(iter(seen.values()))),
}
"""What `Run.plot` draws under these names."""
