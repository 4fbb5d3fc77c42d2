"""The statistics of a grid as far as it has come, in tidy frames. Scores are D4RL-normalised points.

Settings and base share their seeds, and runs with the same task and seed start from the same data order, episodes and
noise. So differences are taken pair by pair, and their bootstrap draws pairs, for every task by itself. rliable's
probability of improvement compares every run with every other one; the verdict does not depend on it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dqlab.analysis.choosing import checkpoint_choices, tuning_curves
from dqlab.analysis.resampling import METRICS, Array, Bootstrap, interquartile_mean, mean_score, sign_flip_tests
from dqlab.analysis.results import GridResults, Report
from dqlab.errors import MANY, UNSCORED, score_or_return
from dqlab.printing import counted, enumerate_names
from dqlab.tracking.selection_rules import SELECTION_RULES

COMPARED = ("probability", "iqm_difference", "mean_difference")
"""Of a setting against the base: that a run beats one of the base on a task drawn at random (0 to 1), and points."""
BOUNDS = ["point", "low", "high"]
FLOATS = dict.fromkeys(BOUNDS, float)
ALL_TASKS = ""  # in place of a task: a figure over all of them
TEST = "two-sided sign-flip test of the mean difference over pairs of the same task and seed"
CORRECTION = "Holm"
ENOUGH = 10  # seeds below which nothing is called better or worse: docs/statistics.md has the simulation
AVERAGE = "average"  # in place of a task in Report.reference: the published average over all tasks of the grid
Key = tuple[str, str]  # rule, setting
THRESHOLDS = 51


@dataclass(frozen=True)
class Analysis:
    """The statistics of a grid as far as it has come; bounds are NaN where one run alone allows no interval."""

    results: GridResults
    settings: Report  # what its report shows
    scores: pd.DataFrame  # a row a rule, setting and seed, a column a task; NaN where no run has a finite score
    estimates: pd.DataFrame
    """Rule, setting, task, metric, point, low, high. METRICS of settings with a complete seed over ALL_TASKS; the mean
    of every task with a run; COMPARED of settings that share complete seeds with the base."""
    comparisons: pd.DataFrame
    """Rule, setting, seeds (complete in both), p, corrected, smallest_p (the least that so many pairs allow), exact
    (all sign flips were counted, not a sample of them), verdict (better, worse, undecided)."""
    curves: pd.DataFrame
    """Setting, task, step, seeds, point, low, high (the mean), at steps that all its runs have; 0 is untrained."""
    profiles: pd.DataFrame  # rule, setting, threshold, point, low, high: the share of runs whose score is above it
    references: pd.DataFrame
    """Setting, task, point, low, high (ours), published, error, difference, inside (our interval)."""
    gains: pd.DataFrame  # as `checkpoint_choices` has it, and the next one
    orders: pd.DataFrame
    tuning: pd.DataFrame  # as `tuning_curves` has it
    cautions: tuple[str, ...]  # plain sentences that must stand beside the figures

    def figure(self, rule: str, metric: str, task: str = ALL_TASKS) -> pd.DataFrame:
        """Point, low and high by setting, of the settings that have this figure, in the grid's order."""
        known = self.estimates
        wanted = (known.rule == rule) & (known.metric == metric) & (known.task == task)
        return known[wanted].set_index("setting")[BOUNDS]

    def compared(self, rule: str) -> pd.DataFrame:
        """The comparisons with the base by a rule, by setting."""
        return self.comparisons[self.comparisons.rule == rule].set_index("setting")

    @cached_property
    def task_scores(self) -> pd.DataFrame:
        """By rule, setting and task with a run: seeds, scores, std and standard error (n - 1), lowest, highest."""
        runs = self.scores.stack().rename("score").reset_index()
        groups = runs.groupby(["rule", "setting", "task"], sort=False)
        known = groups.score.agg(scores=list, std="std", standard_error="sem", lowest="min", highest="max")
        return known.assign(seeds=groups.seed.agg(list))

    @cached_property
    def reference_means(self) -> pd.DataFrame:
        """By published setting: the tasks that both have, and the plain averages over them."""
        both = self.references[self.references.point.notna() & (self.references.task != AVERAGE)]
        groups, labels = both.groupby("setting"), pd.Index(self.references.setting.unique(), name="setting")
        means = groups[["point", "published", "difference"]].mean().assign(tasks=groups.task.agg(tuple)).reindex(labels)
        return means.assign(tasks=[tasks if isinstance(tasks, tuple) else () for tasks in means.tasks])


def one_figure(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A figure of a frame that has several, each with its bounds, as BOUNDS."""
    return frame[[name, f"{name}_low", f"{name}_high"]].set_axis(BOUNDS, axis=1)


def analyse(results: GridResults, settings: Report) -> Analysis:
    """The statistics of a grid as far as it has come, by every selection rule.

    Intervals are percentile intervals of rliable's stratified bootstrap with `settings.reps` repetitions, from the same
    draws every time: equal results have equal intervals. numpy's global generator is left as it was.
    """
    bootstrap = Bootstrap(settings.reps, settings.confidence)
    scores, histories = score_table(results), score_histories(results)
    complete = _by_setting(scores.dropna(), results.labels)
    is_base = scores.index.get_level_values("setting") == results.base
    base, others = scores[is_base].dropna().droplevel("setting"), scores[~is_base].dropna()
    both = _by_setting(others.join(base, on=["rule", "seed"], how="inner", lsuffix=" ", rsuffix="  "), results.labels)
    pairs = {key: np.stack(np.split(rows, 2, axis=1), axis=-1) for key, rows in both.items()}  # (seeds, tasks, 2)
    of_tasks = {
        (*key, task): runs[np.isfinite(runs)][:, None]
        for key, rows in _by_setting(scores, results.labels).items()
        for task, runs in zip(results.tasks, rows.T, strict=True)
        if np.isfinite(runs).any()
    }
    rows = [
        *tidy_rows({(*key, ALL_TASKS): item for key, item in aggregates_of(complete, bootstrap).items()}, METRICS),
        *tidy_rows(aggregates_of(of_tasks, bootstrap, {"mean": mean_score}), ["mean"]),
        *_compared(pairs, bootstrap),
    ]
    estimates = pd.DataFrame(rows, columns=["rule", "setting", "task", "metric", *BOUNDS]).astype(FLOATS)
    comparisons = _comparisons(pairs, 1.0 - settings.confidence)
    curves, profiles = score_curves(histories, bootstrap), _profiles(complete, bootstrap)
    references, tuning = _references(estimates, results, settings), tuning_curves(scores, results, bootstrap)
    gains, orders = checkpoint_choices(scores, score_histories(results, chosen_from=True), results, bootstrap)
    frames = (scores, estimates, comparisons, curves, profiles, references, gains, orders, tuning)
    return Analysis(results, settings, *frames, tuple(cautions_of(results, settings, scores, comparisons, gains)))


def score_table(results: GridResults) -> pd.DataFrame:
    """The finite scores: a row a rule, setting and seed, a column a task."""
    both = product(SELECTION_RULES, results.results)
    runs = [(rule, each.cell.label, each.cell.seed, each.cell.task, each.score(rule)) for rule, each in both]
    scores = pd.DataFrame(runs, columns=["rule", "setting", "seed", "task", "score"]).astype({"score": float})
    table = scores[np.isfinite(scores.score)].pivot(index=["rule", "setting", "seed"], columns="task", values="score")
    return table.reindex(columns=pd.Index(results.tasks, name="task"))


def _by_setting(table: pd.DataFrame, labels: Sequence[str]) -> dict[Key, Array]:
    """(rule, setting) -> its rows, of those that have any, in the grid's order."""
    if table.empty:
        return {}
    places = table.groupby(level=["rule", "setting"]).indices
    keys = ((rule, label) for rule in SELECTION_RULES for label in labels)
    return {key: table.to_numpy()[places[key]] for key in keys if key in places}


def aggregates_of(
    scores: Mapping[Any, Array], bootstrap: Bootstrap, metrics: Mapping[str, Callable[[Array], Array]] = METRICS
) -> dict[Any, Array]:
    """(3, metrics, ...): point and bounds of each, of scores (seeds, tasks, ...)."""
    return bootstrap.of_each(scores, lambda drawn: np.stack([metric(drawn) for metric in metrics.values()]))


def tidy_rows(found: Mapping[tuple[Any, ...], Array], metrics: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of estimates, of (3, metrics) by rule, setting and task, or another key."""
    for key, item in found.items():
        for metric, numbers in zip(metrics, item.T.tolist(), strict=True):
            yield (*key, metric, *numbers)


def _compared(pairs: Mapping[Key, Array], bootstrap: Bootstrap) -> Iterator[tuple[Any, ...]]:
    wins = {key: win_matrix(both[..., 0], both[..., 1]) for key, both in pairs.items()}

    def difference(both: Array) -> Array:  # of (seeds, tasks, 2, columns): IQM and mean of one minus those of the other
        values = np.stack([interquartile_mean(both), mean_score(both)])
        return np.asarray(values[:, 0] - values[:, 1])

    probabilities, differences = bootstrap.of_pairs(wins), bootstrap.of_each(pairs, difference)
    found = {(*key, ALL_TASKS): np.column_stack([probabilities[key], differences[key]]) for key in pairs}
    return tidy_rows(found, COMPARED)


def win_matrix(ours: Array, others: Array) -> Array:
    """1 where our run (first axis) has the higher score than theirs (second axis) on a task (third), 1/2 for a tie."""
    return 0.5 + 0.5 * np.sign(ours[:, None] - others[None])


def _comparisons(pairs: Mapping[Key, Array], level: float) -> pd.DataFrame:
    """Tests of every setting against the base, p-values corrected for their number by each rule."""
    tests = sign_flip_tests({key: both[..., 0] - both[..., 1] for key, both in pairs.items()})
    rows = [(*key, len(both), *tests[key], *mean_score(both)) for key, both in pairs.items()]
    found = pd.DataFrame(rows, columns=["rule", "setting", "seeds", "p", "smallest_p", "exact", "ours", "base"])
    found["corrected"] = found.groupby("rule").p.transform(lambda p: holm(p.to_numpy()))
    decided = (found.corrected <= level) & (found.seeds >= ENOUGH)
    found["verdict"] = np.where(decided, np.where(found.ours > found.base, "better", "worse"), "undecided")
    return found[["rule", "setting", "seeds", "p", "corrected", "smallest_p", "exact", "verdict"]]


def holm(p: Array) -> Array:
    """p-values corrected for their number after Holm 1979 (statsmodels' function collects garbage, half a second)."""
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def score_curves(runs: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """The mean over seeds on every task, at steps that all runs of a setting have there."""
    tables = {key: own.dropna(axis=1) for key, own in runs.groupby(level=["setting", "task"], sort=False)}
    scores = {key: own.to_numpy()[:, None] for key, own in tables.items() if own.shape[1]}
    rows = [
        (*key, step, len(scores[key]), *numbers)
        for key, item in bootstrap.of_each(scores, mean_score).items()
        for step, numbers in zip(tables[key].columns.tolist(), item.T.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["setting", "task", "step", "seeds", *BOUNDS]).astype(FLOATS)


def score_histories(results: GridResults, chosen_from: bool = False) -> pd.DataFrame:
    """Finite scores of evaluations: a row a setting, task and seed, a column a step; 0 is before training.

    With `chosen_from` only those that selection rules choose from: not the untrained policy's, nor pre-training's.
    """
    labels, tasks = ({name: place for place, name in enumerate(each)} for each in (results.labels, results.tasks))
    keys, found = [], []
    for each in sorted(results.results, key=lambda r: (labels[r.cell.label], tasks[r.cell.task], r.cell.seed)):
        rows = [row for row in (each.summary.get("untrained"), *each.summary["evaluations"]) if row]
        rows = [row for row in rows if row["selection_loss"] is not None or not chosen_from]
        found.append({row["step"]: row["score_mean"] for row in rows if math.isfinite(row["score_mean"])})
        keys.append((each.cell.label, each.cell.task, each.cell.seed))
    index = pd.MultiIndex.from_tuples(keys, names=["setting", "task", "seed"])
    return pd.DataFrame(found, index, dtype=float).sort_index(axis=1)


def _profiles(scores: Mapping[Key, Array], bootstrap: Bootstrap) -> pd.DataFrame:
    """The profiles of all settings at the same thresholds a rule, as rliable computes them."""
    above: dict[tuple[str, str, float], Array] = {}
    for rule in dict.fromkeys(rule for rule, _ in scores):
        own = {key: item for key, item in scores.items() if key[0] == rule}
        known = np.concatenate([item.ravel() for item in own.values()])
        # evenly from a point below the lowest score, where all runs are above, to the highest, where none is
        limits = np.linspace(np.ceil(known.min()) - 1.0, np.ceil(known.max()), THRESHOLDS).tolist()
        above |= {(*key, limit): (item > limit).astype(float) for key, item in own.items() for limit in limits}
    # neighbouring thresholds mostly share which runs are above, and with it the interval
    patterns = {(runs.shape, runs.tobytes()): runs for runs in above.values()}
    shares = {pattern: item.tolist() for pattern, item in bootstrap.of_each(patterns, mean_score).items()}
    rows = [(*key, *shares[runs.shape, runs.tobytes()]) for key, runs in above.items()]
    return pd.DataFrame(rows, columns=["rule", "setting", "threshold", *BOUNDS])


def _references(estimates: pd.DataFrame, results: GridResults, settings: Report) -> pd.DataFrame:
    """Published scores beside ours by the reference's selection rule."""
    rows = [
        (label, task, float(published[0]), float(published[1]) if len(published) > 1 else math.nan)
        for label, tasks in settings.reference.items()
        for task, published in tasks.items()
    ]
    found = pd.DataFrame(rows, columns=["setting", "task", "published", "error"])
    ours = estimates[(estimates.rule == settings.reference_rule) & (estimates.metric == "mean")]
    if set(found.task) - {AVERAGE} <= set(results.tasks):  # the average of fewer tasks is another figure
        ours = ours.assign(task=ours.task.replace(ALL_TASKS, AVERAGE))
    found = found.merge(ours[["setting", "task", *BOUNDS]], on=["setting", "task"], how="left")
    inside = (found.low <= found.published) & (found.published <= found.high)
    return found.assign(difference=found.point - found.published, inside=inside.astype(object).where(found.low.notna()))


def cautions_of(
    results: GridResults, settings: Report, scores: pd.DataFrame, comparisons: pd.DataFrame, gains: pd.DataFrame
) -> Iterator[str]:
    """Every sentence that applies, what concerns all scores first; of frames as Analysis has them."""
    last = scores[scores.index.get_level_values("rule") == "last"].notna().all(axis=1)
    seeds = last.groupby(level="setting").agg(["sum", "size"]).reindex(results.labels, fill_value=0)
    yield from _caveats(results)
    unscored = {r.cell.task for r in results.results if UNSCORED in str(r.summary["caveat"])}
    if unscored and len(results.tasks) > 1:
        mixed = "Averages over tasks mix returns with what is on another scale: read the tasks one by one."
        yield f"No reference scores: {enumerate_names(sorted(unscored))}. {mixed}"
    every, failed = len(results.statuses), len(results.failures)
    if results.pending:
        yield f"{len(results.pending)} of {every} cells have no result yet: all figures may change."
    if failed:
        kinds = Counter(status.failure for status in results.failures)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        labels = enumerate_names([status.cell.label for status in results.failures])
        effect = "They count in no figure, so what is left of these settings may look better than they are."
        yield f"{failed} of {every} cells failed ({said}), of {labels}. {effect}"
    scored = [(each.cell.label, map(each.score, SELECTION_RULES)) for each in results.results]
    if lost := [label for label, own in scored if not all(map(math.isfinite, own))]:
        yield f"{len(lost)} finished cells have a score that is no number, of {enumerate_names(lost)}: left out."
    if partial := list(seeds.index[(seeds["size"] > seeds["sum"]) & (seeds["sum"] > 0)]):
        yield f"Aggregates of {enumerate_names(partial)} leave out seeds that lack a task; tables per task have them."
    if without := list(seeds.index[seeds["sum"] == 0]):
        yield f"No seed of {enumerate_names(without)} has all tasks: no aggregates and no comparison."
    least = min([count for count in seeds["sum"] if count], default=None)
    yield from _few_runs(results, settings, least, comparisons[comparisons.rule == "last"])
    yield from _mixed(results, gains)
    if "best_online" in settings.rules:
        yield "best-online picks each run's checkpoint by the score that it then reports: an upper bound."


def _caveats(results: GridResults) -> Iterator[str]:
    """What must stand beside scores, and of which tasks where it is not the same for all."""
    tasks: dict[str, set[str]] = {}
    for result in results.results:
        tasks.setdefault(str(result.summary["caveat"]), set()).add(result.cell.task)
    for caveat, own in sorted(tasks.items()):
        noun = f"{score_or_return(caveat)}s"
        mixed = any(own & other for each, other in tasks.items() if each != caveat)
        some = f"Some {noun}" if mixed else noun.capitalize()
        if caveat:
            yield f"{f'All {noun}' if len(tasks) == 1 else f'{some} on {enumerate_names(sorted(own))}'}: {caveat}."


def _few_runs(results: GridResults, settings: Report, seeds: int | None, compared: pd.DataFrame) -> Iterator[str]:
    """What so many seeds, complete in every setting that has some, and comparisons by one rule do not allow."""
    if seeds is not None and seeds < ENOUGH:
        narrow = "intervals are narrower than they should be (docs/statistics.md)"
        few = "one seed allows no interval" if seeds == 1 else narrow
        yield f"Few seeds: a setting has {seeds}. Below {ENOUGH} no setting is called better or worse, and {few}."
    if len(results.tasks) == 1:
        yield f"One task only ({results.tasks[0]}): nothing here speaks of other tasks."
    if compared.empty:
        return
    count = f"{counted(len(compared), 'comparison')} with {results.base} by each selection rule"
    rule = "A rule is to be chosen before its figures are seen."
    yield f"{count}; p-values are corrected for their number by {CORRECTION}'s method, intervals are not. {rule}"
    least = len(compared) * compared.smallest_p.min()
    if least > 1.0 - settings.confidence:
        p = f"even if all differences had one sign, the corrected p would be {min(1.0, least):.2g}"
        yield f"So few pairs of runs cannot decide any comparison: {p}."


def _mixed(results: GridResults, gains: pd.DataFrame) -> Iterator[str]:
    """What differs between runs, or should and does not."""
    facts = results.facts
    versions = {name: said for name, said in facts.get("versions", {}).items() if not isinstance(said, str)}
    several = {"devices": facts.get("device_names", ()), "commits": facts.get("git_commits", ()), **versions}
    for name, values in several.items():
        if len(set(values)) > 1:
            yield f"The cells ran with different {name}: {enumerate_names(values)}."
    steps = sorted({int(r.summary["steps"]) for r in results.results if "steps" in r.summary})
    if len(steps) > 1:
        numbers = enumerate_names(f"{number:,}" for number in steps)
        yield f"Cells were trained for different numbers of updates: {numbers}."
    if len(checkpoints := sorted({*gains.fewest, *gains.most})) > 1:
        effect = "the best of more is higher by chance alone, so what settings gain by choosing does not compare"
        yield f"Runs choose from different numbers of checkpoints ({enumerate_names(checkpoints)}): {effect}."
    scored: dict[str, set[tuple[object, ...]]] = {label: set() for label in results.labels}
    for each in results.results:
        scored[each.cell.label].add((each.cell.task, each.cell.seed, *map(each.score, SELECTION_RULES)))
    alike: dict[frozenset[tuple[object, ...]], list[str]] = defaultdict(list)
    for label, runs in scored.items():
        alike[frozenset(runs)].append(label)
    for labels in [group for runs, group in alike.items() if runs and len(group) > 1][:MANY]:
        yield f"Every run of {enumerate_names(labels)} gave the same scores: what they differ in had no effect."
