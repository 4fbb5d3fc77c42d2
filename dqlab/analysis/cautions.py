"""What must be said beside the figures, in plain sentences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import pandas as pd

from dqlab.analysis.results import GridResults, Report
from dqlab.errors import MANY, UNSCORED, score_or_return
from dqlab.printing import counted
from dqlab.tracking.selection_rules import SELECTION_RULES

ENOUGH = 10  # seeds below which nothing is called better or worse: docs/statistics.md has the simulation
CORRECTION = "Holm"
AVERAGE = "average"  # in place of a task in Report.reference: the published average over all tasks of the grid
COVERED = 92  # per cent: an interval of 95% that does so is taken as one
COVERAGE: dict[int, dict[int, tuple[int, int]]] = {
    1: {2: (47, 51), 3: (70, 76), 5: (77, 91), 10: (85, 93), 20: (90, 95)},
    3: {2: (65, 73), 3: (74, 84), 5: (80, 90), 10: (87, 93), 20: (92, 94)},
    9: {2: (75, 79), 3: (85, 87), 5: (90, 93), 10: (92, 93), 20: (93, 95)},
}
"""Tasks -> seeds -> per cent of grids, from the worst to the best of two metrics (IQM, mean) and two distributions of
scores (normal, skewed). From benchmarks/interval_coverage.py; docs/statistics.md has the whole table."""


def simulated_coverage(tasks: int, seeds: int) -> tuple[int, int, int, int] | None:
    """Tasks and seeds of the largest simulated grid that is not larger than this one, and COVERAGE of it."""
    smaller = [(known, count) for known in COVERAGE for count in COVERAGE[known] if known <= tasks and count <= seeds]
    return (*max(smaller), *COVERAGE[max(smaller)[0]][max(smaller)[1]]) if smaller else None


def cautions_of(
    results: GridResults, settings: Report, scores: pd.DataFrame, comparisons: pd.DataFrame, gains: pd.DataFrame
) -> Iterator[str]:
    """Every sentence that applies, what concerns all scores first; of frames as Analysis has them."""
    last = scores[scores.index.get_level_values("rule") == "last"].notna().all(axis=1)
    seeds = last.groupby(level="setting").agg(["sum", "size"]).reindex(results.labels, fill_value=0)
    if results.caveat:
        yield f"All {score_or_return(results.caveat)}s: {results.caveat}."
    unscored = {r.cell.task for r in results.results if UNSCORED in str(r.summary["caveat"])}
    if unscored and len(results.tasks) > 1:
        mixed = "Averages over tasks mix returns with what is on another scale: read the tasks one by one."
        yield f"No reference scores: {_named(sorted(unscored))}. {mixed}"
    every, failed = len(results.statuses), len(results.failures)
    if results.pending:
        yield f"{len(results.pending)} of {every} cells have no result yet: all figures may change."
    if failed:
        kinds = Counter(status.failure for status in results.failures)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        labels = _named([status.cell.label for status in results.failures])
        effect = "They count in no figure, so what is left of these settings may look better than they are."
        yield f"{failed} of {every} cells failed ({said}), of {labels}. {effect}"
    scored = [(each.cell.label, map(each.score, SELECTION_RULES)) for each in results.results]
    if lost := [label for label, own in scored if not all(map(math.isfinite, own))]:
        yield f"{len(lost)} finished cells have a score that is no number, of {_named(lost)}: left out."
    if partial := list(seeds.index[(seeds["size"] > seeds["sum"]) & (seeds["sum"] > 0)]):
        yield f"Aggregates of {_named(partial)} leave out the seeds that lack a task; tables per task have them."
    if without := list(seeds.index[seeds["sum"] == 0]):
        yield f"No seed of {_named(without)} has all tasks: no aggregates and no comparison."
    least = min([count for count in seeds["sum"] if count], default=None)
    yield from _few_runs(results, settings, least, comparisons[comparisons.rule == "last"])
    yield from _mixed(results, gains)
    if "best_online" in settings.rules:
        yield "best_online picks each run's checkpoint by the score that it then reports: an upper bound."


def _few_runs(results: GridResults, settings: Report, seeds: int | None, compared: pd.DataFrame) -> Iterator[str]:
    """What so many seeds, complete in every setting that has some, and comparisons by one rule do not allow."""
    if seeds is not None:
        if seeds < ENOUGH:
            yield f"Few seeds: a setting has {seeds}. Below {ENOUGH} no setting is called better or worse."
        if seeds == 1:
            yield "One seed allows no interval."
        known = simulated_coverage(len(results.tasks), seeds)
        if known and known[2] < COVERED and settings.confidence == 0.95:
            grids = f"{known[2]} to {known[3]}% of simulated grids with {counted(known[1], 'seed')}"
            held = f"95% intervals held the true value in {grids} on {counted(known[0], 'task')}"
            yield f"The intervals are narrower than they should be: {held} (docs/statistics.md)."
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
            yield f"The cells ran with different {name}: {_named(values)}."
    steps = sorted({int(r.summary["steps"]) for r in results.results if "steps" in r.summary})
    if len(steps) > 1:
        yield f"Cells were trained for different numbers of updates: {_named([f'{number:,}' for number in steps])}."
    if len(numbers := sorted({*gains.fewest, *gains.most})) > 1:
        effect = "the best of more is higher by chance alone, so what settings gain by choosing does not compare"
        yield f"Runs choose from different numbers of checkpoints ({_named(numbers)}): {effect}."
    scored: dict[str, set[tuple[object, ...]]] = {label: set() for label in results.labels}
    for each in results.results:
        scored[each.cell.label].add((each.cell.task, each.cell.seed, *map(each.score, SELECTION_RULES)))
    alike: dict[frozenset[tuple[object, ...]], list[str]] = defaultdict(list)
    for label, runs in scored.items():
        alike[frozenset(runs)].append(label)
    for labels in [group for runs, group in alike.items() if runs and len(group) > 1][:MANY]:
        yield f"Every run of {_named(labels)} gave the same scores: what they differ in had no effect."


def _named(labels: Iterable[object]) -> str:
    """The first of several names, each once, and how many more there are."""
    names = list(dict.fromkeys(map(str, labels)))
    return "; ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
