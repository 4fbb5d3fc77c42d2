"""What tuning by the score is worth, over the number of policies that are evaluated for it.

Dodge et al. 2019 (Show Your Work, arXiv 1909.03004) plot the expected best of k results. That is what a tuner sees, and
too high: the best result was also a lucky one. Jackson et al. 2025 (A Clean Slate for Offline Reinforcement Learning,
arXiv 2504.11453) ask for the true score of the policy that is chosen. Both have closed forms here: k of the settings
are drawn and trained with one seed, the best is chosen, and its other seeds tell what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

from dqlab.analysis.resampling import Array, Bootstrap
from dqlab.analysis.results import GridResults
from dqlab.tracking.selection_rules import SELECTION_RULES

EVERY = ""
"""In place of an axis: all settings of the grid."""
SEEDS = "seeds"
"""In place of an axis, of a grid with one setting: its seeds are what is chosen from."""
MOST_SIZES = 16
LEAST_SEEDS = 3
"""For an interval of what is held out: half of the resamples of two seeds have no other seed."""
TINY = 1e-9
COLUMNS = ["rule", "axis", "point", "settings", "seeds", "policies"]
FIGURES = [f"{figure}{end}" for figure in ("seen", "held_out") for end in ("", "_low", "_high")]


def tuning_curves(scores: pd.DataFrame, results: GridResults, bootstrap: Bootstrap) -> pd.DataFrame:
    """Means over tasks, each tuned by itself: rule, axis, point, settings, seeds, policies (k), seen and held_out.

    `seen` is what the chosen policy scored where it was chosen; `held_out` what the other seeds of its setting score;
    each with its bounds. A row a rule, a number of policies and a group of settings: all of them (axis EVERY), and, of
    several axes, those that share a point of one.

    Args:
        scores: as `Analysis` has them; of a group those seeds count that are complete in all of its settings.
        results, bootstrap: the grid, and how its runs are resampled.
    """
    complete, rows = scores.dropna(), []
    for rule in sorted(complete.index.unique("rule"), key=list(SELECTION_RULES).index):
        known = complete.loc[rule]
        for axis, point, labels in _groups(results, known.index.unique("setting")):
            values = known[known.index.isin(labels, level="setting")].unstack("setting").dropna()
            if len(values):
                found = _of_settings if len(labels) > 1 else _of_seeds
                arranged = values.to_numpy().reshape(len(values), len(results.tasks), len(labels))
                about = (rule, axis, point, len(labels), len(values))
                rows += [(*about, *row) for row in found(arranged, bootstrap)]
    return pd.DataFrame(rows, columns=[*COLUMNS, *FIGURES]).astype(dict.fromkeys(FIGURES, float))


def _groups(results: GridResults, known: Sequence[str]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Axis, point and labels of what is tuned within: at least two settings, or the seeds of the only one."""
    if len(known) > 1:
        yield EVERY, "", known
    elif len(results.labels) == 1:
        yield SEEDS, known[0], known
    points = {status.cell.label: status.cell.points for status in results.results}
    several = [axis for axis, values in results.axes.items() if len(values) > 1]
    for axis in several if len(several) > 1 else ():
        for point in results.axes[axis]:
            labels = [label for label in known if points[label].get(axis) == point]
            if len(labels) > 1:
                yield axis, point, labels


def _of_settings(values: Array, bootstrap: Bootstrap) -> Iterator[tuple[Any, ...]]:
    """A row a number of policies: of scores (seeds, tasks, settings)."""
    seeds, tasks, settings = values.shape
    sizes = budget_sizes(settings)
    weights = bootstrap.run_weights(seeds, tasks)
    seen, held_out = [], []
    for own, drawn in zip(values.swapaxes(0, 1), weights, strict=True):
        scored = best_weights(own, sizes) @ own.T  # (seeds that choose, sizes, seeds that are scored)
        same = np.diagonal(scored, axis1=0, axis2=2).T  # (seeds, sizes)
        both = np.einsum("rkj,rj->rk", np.tensordot(drawn, scored, 1), drawn)
        apart = 1.0 - (drawn**2).sum(axis=1, keepdims=True)
        others = (both - drawn**2 @ same) / np.where(apart > TINY, apart, np.nan)
        seen.append(drawn @ same)
        held_out.append(np.where(np.isnan(others), others[:1], others))
    figures = [bootstrap.bounds(np.mean(each, axis=0)) for each in (seen, held_out)]
    if seeds < LEAST_SEEDS:
        figures = [np.stack([point, *np.full_like(bounds, np.nan)]) for point, *bounds in figures]
    return zip(sizes.tolist(), *np.concatenate(figures).tolist(), strict=True)


def _of_seeds(values: Array, bootstrap: Bootstrap) -> Iterator[tuple[Any, ...]]:
    """The same for scores (seeds, tasks, 1) of one setting, whose best seed is chosen: no other run tells its worth."""
    sizes = budget_sizes(len(values))

    def best(drawn: Array) -> Array:
        ordered = np.moveaxis(drawn, 0, -1)
        means: Array = (best_weights(ordered, sizes) * ordered[..., None, :]).sum(axis=-1).mean(axis=(0, 1))
        return np.moveaxis(means, -1, 0)

    seen = bootstrap.of_each({SEEDS: values}, best)[SEEDS]
    return zip(sizes.tolist(), *seen.tolist(), *np.full_like(seen, np.nan).tolist(), strict=True)


def budget_sizes(most: int) -> NDArray[np.int64]:
    """Numbers of policies from 1 to `most`, all of them or evenly on a logarithmic scale."""
    if most <= MOST_SIZES:
        return np.arange(1, most + 1)
    return np.unique(np.geomspace(1, most, MOST_SIZES).round().astype(int))


def best_weights(values: Array, sizes: NDArray[np.int64]) -> Array:
    """(..., sizes, n): the chance of each of values (..., n) to be the best of k drawn without replacement.

    C(j, k) / C(n, k) is the chance that all k are among the j lowest. Equal values share theirs.
    """
    number = values.shape[-1]
    drawn, below = sizes[:, None], np.arange(number + 1)
    with np.errstate(invalid="ignore"):
        logs = gammaln(below + 1) - gammaln(below - drawn + 1) - gammaln(number + 1) + gammaln(number - drawn + 1)
    among = np.where(below >= drawn, np.exp(logs), 0.0)
    low, high = (rankdata(values, how, axis=-1).astype(int) for how in ("min", "max"))
    chances: Array = (among[:, high] - among[:, low - 1]) / (high - low + 1)
    return np.moveaxis(chances, 0, -2)
