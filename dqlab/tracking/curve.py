"""The learning curve of one replica as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dqlab.files import atomic_path


def draw_score_curve(
    evaluations: Sequence[dict[str, Any]],
    selection: dict[str, dict[str, Any]],
    title: str,
    path: Path,
    scored: bool = True,
) -> None:
    """Score over updates with its spread over episodes, and the selection loss below; selected points are marked.

    Args:
        evaluations: in order, as `Evaluated.as_dict`.
        selection: rule -> `Chosen` as a dict.
        title: names task, algorithm and caveat.
        path: the PNG.
        scored: whether the task has reference scores; a score is the return where it has none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    score, loss = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = [e["step"] for e in evaluations]
    means, spreads = [e["score_mean"] for e in evaluations], [e["score_std"] for e in evaluations]
    score.plot(steps, means, marker="o", markersize=3)
    low = [m - s for m, s in zip(means, spreads, strict=True)]
    high = [m + s for m, s in zip(means, spreads, strict=True)]
    score.fill_between(steps, low, high, alpha=0.2, linewidth=0)
    markers = {"last": "s", "best_online": "*", "offline": "D"}
    for rule, marker in markers.items():
        chosen = selection[rule]
        label = f"{rule.replace('_', '-')}: {chosen['score_mean']:.1f}"
        score.plot(
            chosen["step"], chosen["score_mean"], marker, markersize=9, fillstyle="none", linestyle="", label=label
        )
    score.set_ylabel(f"{'score' if scored else 'return'} (mean and std over episodes)")
    score.set_title(title, fontsize=10)
    score.legend(loc="best", fontsize=8)
    trained = [e for e in evaluations if e["selection_loss"] is not None]
    loss.plot(
        [e["step"] for e in trained],
        [e["selection_loss"] for e in trained],
        color="tab:orange",
        marker="o",
        markersize=3,
    )
    loss.set_ylabel("loss for offline selection")
    loss.set_xlabel("updates")
    for axes in (score, loss):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
