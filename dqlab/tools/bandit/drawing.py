"""Clouds of actions in the square [-1, 1]^2, one panel each, in rows: the drawing of the bandit's figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.envs.bandit import BEST, MODES, RADIUS, modes_of
from dqlab.errors import RunError
from dqlab.files import atomic_path


@dataclass(frozen=True)
class Coverage:
    """What n samples cover of the four modes.

    Attributes:
        samples: n.
        on_modes: share of them within 0.25 of a mode.
        entropy: of the distribution over modes of those near one, nats; log 4 = 1.386 where all four are equal.
        entropy_share: the same as a share of log 4.
        on_best: share of all samples that are within 0.25 of the best mode (lower right).
        counts: samples near each mode, in the order of `MODES`.
    """

    samples: int
    on_modes: float
    entropy: float
    entropy_share: float
    on_best: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, actions: NDArray[np.floating]) -> Coverage:
        """The numbers of action samples (n, 2).

        Raises:
            RunError: there are none, or some are not finite.
        """
        if len(actions) == 0 or not np.isfinite(actions).all():
            raise RunError("Numbers of a policy want at least one sample, and finite ones.")
        modes = modes_of(actions)
        counts = np.bincount(modes[modes >= 0], minlength=len(MODES))
        entropy = _entropy(counts)
        return cls(
            samples=len(actions),
            on_modes=float((modes >= 0).mean()),
            entropy=entropy,
            entropy_share=entropy / float(np.log(len(MODES))),
            on_best=float((modes == BEST).mean()),
            counts=tuple(counts.tolist()),
        )

    def as_dict(self) -> dict[str, object]:
        """All fields, for records."""
        return asdict(self)


def _entropy(counts: NDArray[np.integer]) -> float:
    """Entropy of the distribution that counts (m,) stand for, nats; 0 where nothing was counted."""
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum()) + 0.0


ON, OFF, RING, TEXT = "#1f6fb4", "#e4572e", "#9aa3ad", "#30363d"
LIMITS = (-1.2, 1.2)
TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LEGEND = f"Rings: within {RADIUS} of a mode; the thick one is the best. Blue: samples on a mode; red: all others."


@dataclass(frozen=True)
class Cloud:
    """One panel.

    Attributes:
        title: what the actions are.
        actions: (n, 2).
        coverage: their numbers, written under the panel.
        rewards: (n,), shown as colour, or None.
        note: a line more under the panel.
    """

    title: str
    actions: NDArray[Any]
    coverage: Coverage
    rewards: NDArray[Any] | None = None
    note: str = ""


@dataclass(frozen=True)
class CloudRow:
    """One row of panels under a common title."""

    title: str
    clouds: Sequence[Cloud]


def draw_clouds(rows: Sequence[CloudRow], path: Path) -> None:
    """All rows as one PNG; samples within 0.25 of a mode are blue, those in between are red."""
    with atomic_path(path) as temporary:
        make_figure(rows).savefig(temporary, format="png", dpi=150)


def make_figure(rows: Sequence[CloudRow]) -> Any:
    """The matplotlib figure of all rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row.clouds) for row in rows)
    figure = Figure(figsize=(2.8 * columns + 0.4, 4.0 * len(rows) + 0.3))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.06)
    FigureCanvasAgg(figure)
    *parts, foot = figure.subfigures(len(rows) + 1, 1, squeeze=False, height_ratios=[4.0] * len(rows) + [0.3])[:, 0]
    foot.text(0.5, 0.5, LEGEND, ha="center", va="center", fontsize=9, color=TEXT)
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(row.title, fontsize=13, fontweight="bold", color=TEXT)
        grid = part.subplots(1, columns, sharex=True, sharey=True, squeeze=False)[0]
        for axes, cloud in zip(grid, row.clouds, strict=False):
            _draw_cloud(axes, cloud)
        for axes in grid[len(row.clouds) :]:
            axes.set_visible(False)
    return figure


def _draw_cloud(axes: Any, cloud: Cloud) -> None:
    """One panel: frame, modes, samples, numbers."""
    _frame(axes)
    for index, mode in enumerate(MODES):
        _ring(axes, mode.centre, 1.8 if index == BEST else 0.9)
    if cloud.rewards is None:
        colours = [ON if mode >= 0 else OFF for mode in modes_of(cloud.actions).tolist()]
        axes.scatter(*cloud.actions.T, s=7, c=colours, alpha=0.45, linewidths=0, zorder=3)
    else:
        _draw_rewards(axes, cloud.actions, cloud.rewards)
    axes.set_title(cloud.title, fontsize=11, color=TEXT)
    said = "\n".join(filter(None, (numbers_of(cloud.coverage), cloud.note)))
    axes.set_xlabel(said, fontsize=9, color=TEXT, labelpad=6)


def _frame(axes: Any) -> None:
    axes.set(aspect="equal", xlim=LIMITS, ylim=LIMITS, xticks=TICKS, yticks=TICKS)
    axes.grid(color="#e6e9ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, length=0, colors="#6b7480")
    for spine in axes.spines.values():
        spine.set_color("#c9ced4")


def _ring(axes: Any, centre: tuple[float, float], width: float) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(centre, RADIUS, fill=False, edgecolor=RING, linewidth=width, zorder=2))


def _draw_rewards(axes: Any, actions: NDArray[Any], rewards: NDArray[Any]) -> None:
    """Samples in the colour of their rewards; the scale lies in the middle, where there are no data."""
    drawn = axes.scatter(*actions.T, s=7, c=rewards, cmap="viridis", alpha=0.7, linewidths=0, zorder=3)
    scale = axes.inset_axes((0.27, 0.475, 0.46, 0.035))
    bar = axes.figure.colorbar(drawn, cax=scale, orientation="horizontal")
    bar.solids.set_alpha(1.0)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, pad=1, colors=TEXT)
    bar.ax.set_title("reward", fontsize=8, color=TEXT, pad=3)


def numbers_of(coverage: Coverage) -> str:
    """The numbers of a panel, in three lines."""
    known = f"entropy {coverage.entropy:.2f} nats ({coverage.entropy_share:.0%} of log 4)"
    spread = known if coverage.on_modes else "entropy: no sample is on a mode"
    return f"on a mode {coverage.on_modes:.1%}\n{spread}\non the best mode {coverage.on_best:.1%}"
