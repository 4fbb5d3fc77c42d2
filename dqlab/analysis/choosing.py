"""What choosing checkpoints and settings by their scores is worth, how much of it is luck, and what becomes of orders.

The best of several noisy scores is too high even where all are equally good. Where the seeds of a setting share the
choice of a checkpoint, each can be scored at the step that the others choose, which leaves that luck out.

Tuning: the expected best of k results (Dodge et al. 2019, Show Your Work, arXiv 1909.03004) is what a tuner sees, and
too high; Jackson et al. 2025 (A Clean Slate for Offline Reinforcement Learning, arXiv 2504.11453) ask for the chosen
policy's true score, which the other seeds of its setting tell. Both have closed forms here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import kendalltau, rankdata

from dqlab.analysis.resampling import Array, Bootstrap
from dqlab.analysis.results import GridResults
from dqlab.tracking.selection_rules import SELECTION_RULES

COMMON = {"common_task": "best common by task", "common": "best common"}
"""The best step for all seeds of a setting: on each task its own, or one for all tasks."""
CHOICES = (*SELECTION_RULES, *COMMON)
MOST_SWAPS = 100
ROUNDING = 1e-9  # points: means that differ by less are tied


def with_bounds(*figures: str) -> list[str]:
    """Columns of figures with their bounds."""
    return [f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")]


def checkpoint_choices(
    scores: pd.DataFrame, histories: pd.DataFrame, results: GridResults, bootstrap: Bootstrap
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each rule gains over the last checkpoint, and makes of the order.

    `scores` are as `score_table` has them, `histories` those of `score_histories` that are chosen from.

    Frames of settings with seeds that are complete by every rule:
        gains: setting, rule (CHOICES), point, low, high (the mean over tasks and seeds), gain (over `last`), held_out
            (gain where the other seeds choose; of COMMON only), each with its bounds; rank; fewest, most: evaluations
            that a run of the setting chooses from.
        orders: rule, settings, tau (Kendall's, with the order by `last`), swaps (pairs of settings), pairs, kept (share
            of resamples that have the rule's order of all settings), changed (MOST_SWAPS pairs that swap at most, the
            setting first that is higher by this rule; those with the largest differences first).
    """
    columns = pd.MultiIndex.from_product([results.tasks, SELECTION_RULES])
    rows = scores.unstack("rule").reindex(columns=columns).dropna()
    values = rows.to_numpy().reshape(len(rows), len(results.tasks), len(SELECTION_RULES))
    seeds, places = rows.index.get_level_values("seed"), rows.groupby(level="setting").indices
    weights, drawn, keys, bounds = cache(bootstrap.run_weights), dict[str, Array](), list[tuple[Any, ...]](), []
    for label in filter(places.__contains__, results.labels):
        own, chosen = seeds[places[label]], values[places[label]].swapaxes(0, 1)
        runs = histories.loc[label].reindex(pd.MultiIndex.from_product([results.tasks, own]))
        curves = runs.to_numpy().reshape(len(results.tasks), len(own), -1)
        means = drawn[label] = _resampled_means(chosen, curves, weights(len(own), len(results.tasks)))
        by_rule, last = means[:, : len(CHOICES)], means[:, :1]
        held_out = np.full_like(by_rule, np.nan)
        held_out[:, len(SELECTION_RULES) :] = means[:, len(CHOICES) :]
        bounds.append(np.concatenate([bootstrap.bounds(each) for each in (by_rule, by_rule - last, held_out - last)]).T)
        numbers = runs.count(axis=1)
        keys += [(label, rule, numbers.min(), numbers.max()) for rule in CHOICES]
    gains = pd.DataFrame(keys, columns=["setting", "rule", "fewest", "most"])
    figures = with_bounds("point", "gain", "held_out")
    gains[figures] = np.array(bounds).reshape(-1, len(figures))
    gains["rank"] = gains.groupby("rule").point.rank(ascending=False, method="min")
    return gains[["setting", "rule", *figures, "rank", "fewest", "most"]], _orders(drawn)


def _resampled_means(chosen: Array, curves: Array, weights: Array) -> Array:
    """(1 + reps, CHOICES and then what is held out of COMMON): means over tasks and seeds; the first row is the sample.

    The best common steps are chosen anew in every resample. The best of resampled means is higher on average than the
    best of the means: the resamples are moved back by as much, since on fifty tasks no interval would hold otherwise.

    `chosen` is (tasks, seeds, SELECTION_RULES); `curves` (tasks, seeds, steps), NaN where a run lacks the step;
    `weights` (tasks, 1 + reps, seeds).
    """
    shared = np.asarray(np.isfinite(curves).all(axis=1))  # (tasks, steps)
    scores = np.where(shared[:, None], curves, 0.0)
    own, held_out = ((weights @ each).mean(axis=0) for each in (chosen, held_out_scores(scores, shared)))
    steps = np.where(shared[:, None], weights @ scores, -np.inf)
    best = np.stack([steps.max(axis=-1).mean(axis=0), steps.mean(axis=0).max(axis=-1)], axis=-1)
    gains = np.where(np.isfinite(best), best, np.nan) - own[:, :1]
    if len(gains) > 1:
        gains[1:] += gains[0] - gains[1:].mean(axis=0)
    return np.concatenate([own, own[:, :1] + gains, held_out], axis=-1)


def held_out_scores(scores: Array, shared: NDArray[np.bool_]) -> Array:
    """(tasks, seeds, COMMON): each seed's score at the step that is best for the others' mean; NaN without a choice."""
    others = np.where(shared[:, None], scores.sum(axis=1, keepdims=True) - scores, -np.inf)
    everywhere = np.broadcast_to(others.mean(axis=0), others.shape)
    steps = np.stack([others.argmax(axis=-1), everywhere.argmax(axis=-1)], axis=-1)
    known = np.array([shared.any(axis=-1).all(), shared.all(axis=0).any()]) & (scores.shape[1] > 1)
    return np.where(known, np.take_along_axis(scores, steps, axis=-1), np.nan)


def _orders(drawn: Mapping[str, Array]) -> pd.DataFrame:
    """The orders; of means (1 + reps, CHOICES and others) of each setting."""
    reps = min(map(len, drawn.values()), default=1)
    means = np.array([each[:reps, : len(CHOICES)] for each in drawn.values()]).reshape(len(drawn), reps, len(CHOICES))
    rows = []
    for place, rule in enumerate(CHOICES):
        known = np.flatnonzero(~np.isnan(means[:, 0, place]))
        if len(known) > 1:
            names = np.array(list(drawn), dtype=object)[known]
            rows.append((rule, *_order(names, means[known, 0, 0], means[known, :, place].T)))
    return pd.DataFrame(rows, columns=["rule", "settings", "tau", "swaps", "pairs", "kept", "changed"])


def _order(names: NDArray[Any], last: Array, own: Array) -> tuple[Any, ...]:
    """How a rule's means (1 + reps, settings) order the settings, beside their order by last ones."""
    one, other = np.triu_indices(len(names), 1)
    by_last, by_rule = last[one] - last[other], own[0, one] - own[0, other]
    least = np.minimum(-by_last * np.sign(by_rule), np.abs(by_rule))  # the smaller of both differences
    swapped = np.flatnonzero(least > ROUNDING)
    largest = swapped[np.argsort(-least[swapped], kind="stable")][:MOST_SWAPS]
    pairs = np.stack([one[largest], other[largest]], axis=-1)
    changed = names[np.where(by_rule[largest, None] > 0, pairs, pairs[:, ::-1])].tolist()
    order = np.argsort(-own, axis=1, kind="stable")
    kept = float((order[1:] == order[0]).all(axis=1).mean()) if len(own) > 1 else np.nan
    return len(names), float(kendalltau(last, own[0]).statistic), len(swapped), len(one), kept, changed


EVERY = ""  # in place of an axis: all settings of the grid
MOST_SIZES = 16
LEAST_SEEDS = 3  # for an interval of what is held out: half of the resamples of two seeds have no other seed
TINY = 1e-9


def tuning_curves(scores: pd.DataFrame, results: GridResults, bootstrap: Bootstrap) -> pd.DataFrame:
    """Means over tasks, each tuned by itself: rule, axis, point, settings, seeds, policies (k), seen and held_out.

    `seen` is what the chosen policy scored where it was chosen; `held_out` what the other seeds of its setting score;
    each with its bounds. A row a rule, a number of policies and a group of settings: all of them (axis EVERY), and, of
    several axes, those that share a point of one. Of a group those seeds count that all of its settings have.
    """
    complete, rows = scores.dropna(), []
    for rule in sorted(complete.index.unique("rule"), key=list(SELECTION_RULES).index):
        known = complete.loc[rule]
        for axis, point, labels in _groups(results, known.index.unique("setting")):
            values = known[known.index.isin(labels, level="setting")].unstack("setting").dropna()
            if len(values):
                arranged = values.to_numpy().reshape(len(values), len(results.tasks), len(labels))
                about = (rule, axis, point, len(labels), len(values))
                rows += [(*about, *row) for row in _tuned(arranged, bootstrap)]
    figures = with_bounds("seen", "held_out")
    columns = ["rule", "axis", "point", "settings", "seeds", "policies", *figures]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(figures, float))


def _groups(results: GridResults, known: Sequence[str]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Axis, point and labels of what is tuned within: at least two settings."""
    if len(known) > 1:
        yield EVERY, "", known
    points = {status.cell.label: status.cell.points for status in results.results}
    several = [axis for axis, values in results.axes.items() if len(values) > 1]
    for axis in several if len(several) > 1 else ():
        for point in results.axes[axis]:
            labels = [label for label in known if points[label].get(axis) == point]
            if len(labels) > 1:
                yield axis, point, labels


def _tuned(values: Array, bootstrap: Bootstrap) -> Iterator[tuple[Any, ...]]:
    """A row a number of policies: of scores (seeds, tasks, settings)."""
    seeds, tasks, settings = values.shape
    sizes = np.arange(1, settings + 1)
    if settings > MOST_SIZES:  # not all of them: evenly on a logarithmic scale
        sizes = np.unique(np.geomspace(1, settings, MOST_SIZES).round().astype(int))
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
