"""A dataset's episodes as histograms of returns and lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.datasets.locating import Dataset
from dqlab.datasets.survey import Survey
from dqlab.envs.tasks import Task
from dqlab.errors import DataError
from dqlab.files import atomic_path

INK, BAR, QUIET = "#202428", "#0072B2", "#9aa3ad"
BINS = 50


def default_path(dataset: Dataset) -> Path:
    """Where the picture goes if nobody says: runs/data/NAME.png."""
    name = dataset.named.replace(":", "-").strip("./").replace("/", "-")
    return Path("runs") / "data" / f"{name.removesuffix(dataset.path.suffix) or name}.png"


def draw(dataset: Dataset, found: Survey, path: Path) -> None:
    """Write a PNG: returns, with the normalised score above where the task is known, and lengths.

    Raises:
        DataError: no episode ends, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    returns = found.returns[np.isfinite(found.returns)]
    if not len(returns):
        raise DataError(f"{dataset.named}: there is nothing to draw: no episode with a finite return ends in it.")
    figure = Figure(figsize=(9.0, 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    figure.suptitle(_title(dataset, found), fontsize=10, color=INK)
    left, right = figure.subplots(1, 2)
    _histogram(left, returns, "episode return")
    if dataset.task:
        _scores(left, dataset.task)
    _histogram(right, found.lengths, "episode length (steps)")
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}. Choose another --png.") from error


def _title(dataset: Dataset, found: Survey) -> str:
    name = dataset.named if len(dataset.named) <= 60 else dataset.place.name
    return f"{name}: {found.rows:,} rows, {len(found.lengths):,} episodes".replace("$", r"\$")


def _histogram(axes: Any, values: NDArray[Any], label: str) -> None:
    axes.hist(values, bins=_edges(values), color=BAR)
    mean = float(values.mean())
    axes.axvline(mean, color=INK, linewidth=1, linestyle="--")
    axes.set_xlabel(f"{label}; dashed: mean {mean:,.1f}", fontsize=9, color=INK)
    axes.set_ylabel("episodes", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _edges(values: NDArray[Any]) -> NDArray[np.float64]:
    """At most 50 bins of equal width; whole numbers get one of width 1 or more, a single value its surroundings too."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        around = max(5.5, abs(low) * 0.05)
        return np.linspace(low - around, low + around, 12)
    bins = BINS if values.dtype.kind == "f" else int(min(BINS, high - low))
    return np.linspace(low, high, bins + 1)


def _scores(axes: Any, task: Task) -> None:
    """A second axis above: 0 is the random policy's return, 100 the expert's."""
    span = task.max_score - task.min_score
    above = axes.secondary_xaxis("top", functions=(task.score, lambda score: score * span / 100 + task.min_score))
    above.set_xlabel("normalised score", fontsize=9, color=INK)
    above.tick_params(labelsize=8, colors=INK)
    above.spines["top"].set_color(QUIET)
