"""What must be said beside the figures, in plain sentences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import pandas as pd

from dqlab.analysis.results import GridResults, Report
from dqlab.envs.caveats import UNSCORED, score_or_return
from dqlab.errors import MANY
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


def same_settings(results: GridResults) -> list[list[str]]:
    """Groups of labels whose runs have the same scores by every rule."""
    scored: dict[str, set[tuple[object, ...]]] = {label: set() for label in results.labels}
    for result in results.results:
        scores = (result.score(rule) for rule in SELECTION_RULES)
        scored[result.cell.label].add((result.cell.task, result.cell.seed, *scores))
    alike: dict[frozenset[tuple[object, ...]], list[str]] = defaultdict(list)
    for label, runs in scored.items():
        alike[frozenset(runs)].append(label)
    return [group for runs, group in alike.items() if runs and len(group) > 1]


def cautions_of(
    results: GridResults, settings: Report, scores: pd.DataFrame, comparisons: pd.DataFrame, gains: pd.DataFrame
) -> Iterator[str]:
    """Every sentence that applies, what concerns all scores first; of frames as Analysis has them."""
    last = scores[scores.index.get_level_values("rule") == "last"].notna().all(axis=1)
    complete = last.groupby(level="setting").sum().reindex(results.labels, fill_value=0)
    left_out = (~last).groupby(level="setting").any().reindex(results.labels, fill_value=False)
    if results.caveat:
        yield f"All {score_or_return(results.caveat)}s: {results.caveat}."
    unscored = {r.cell.task for r in results.results if UNSCORED in str(r.summary["caveat"])}
    if unscored and len(results.tasks) > 1:
        yield (
            f"No reference scores: {_named(sorted(unscored))}. Averages over tasks mix returns with what is on another "
            "scale: read the tasks one by one."
        )
    yield from _missing(results)
    if partial := list(complete.index[left_out & (complete > 0)]):
        yield f"Aggregates of {_named(partial)} leave out the seeds that lack a task; tables per task have them."
    if without := list(complete.index[complete == 0]):
        yield f"No seed of {_named(without)} has all tasks: no aggregates and no comparison."
    yield from _few_seeds(results, settings, [count for count in complete.tolist() if count])
    yield from _many_comparisons(results, settings, comparisons[comparisons.rule == "last"])
    yield from _mixed(results, gains)
    if "best_online" in settings.rules:
        yield (
            "best_online picks each run's checkpoint by the score that it then reports: an upper bound, "
            "not what one gets without the environment."
        )


def _missing(results: GridResults) -> Iterator[str]:
    every = len(results.statuses)
    if results.pending:
        yield f"{len(results.pending)} of {every} cells have no result yet: all figures may change."
    if results.failures:
        kinds = Counter(status.failure for status in results.failures)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        labels = _named([status.cell.label for status in results.failures])
        yield (
            f"{len(results.failures)} of {every} cells failed ({said}), of {labels}. They count in no figure, "
            "so what is left of these settings may look better than they are."
        )
    scored = [(each.cell.label, [each.score(rule) for rule in SELECTION_RULES]) for each in results.results]
    if lost := [label for label, scores in scored if not all(map(math.isfinite, scores))]:
        yield f"{len(lost)} finished cells have a score that is no number, of {_named(lost)}: left out."


def _few_seeds(results: GridResults, settings: Report, counts: Sequence[int]) -> Iterator[str]:
    """Of the numbers of complete seeds of those settings that have some; and what is said of a single task."""
    seeds = min(counts, default=ENOUGH)
    if seeds < ENOUGH:
        where = "a setting has" if len(set(counts)) > 1 else "every setting has"
        yield f"Few seeds: {where} {seeds}. Below {ENOUGH} no setting is called better or worse."
    if seeds == 1:
        yield "One seed allows no interval."
    known = simulated_coverage(len(results.tasks), seeds) if counts else None
    if known and known[2] < COVERED and settings.confidence == 0.95:
        near_tasks, near_seeds, low, high = known
        yield (
            f"The intervals are narrower than they should be: with {counted(near_seeds, 'seed')} on "
            f"{counted(near_tasks, 'task')}, 95% intervals held the true value in {low} to {high}% of simulated grids "
            "(docs/statistics.md)."
        )
    if len(results.tasks) == 1:
        yield f"One task only ({results.tasks[0]}): nothing here speaks of other tasks."


def _many_comparisons(results: GridResults, settings: Report, compared: pd.DataFrame) -> Iterator[str]:
    if compared.empty:
        return
    yield (
        f"{counted(len(compared), 'comparison')} with {results.base} by each selection rule; p-values are corrected "
        f"for their number by {CORRECTION}'s method, intervals are not. A rule is to be chosen before its figures are "
        "seen."
    )
    least = len(compared) * compared.smallest_p.min()
    if least > 1.0 - settings.confidence:
        many = "so many comparisons" if len(compared) > 1 else "a comparison"
        yield (
            f"So few pairs of runs cannot decide {many}: even if all differences had one sign, "
            f"the corrected p would be {min(1.0, least):.2g}."
        )


def _mixed(results: GridResults, gains: pd.DataFrame) -> Iterator[str]:
    """What differs between runs, or should and does not."""
    facts = results.facts
    versions = {name: said for name, said in facts.get("versions", {}).items() if not isinstance(said, str)}
    several = {"devices": facts.get("device_names", ()), "commits": facts.get("git_commits", ()), **versions}
    for name, values in several.items():
        if len(set(values)) > 1:
            yield f"The cells ran with different {name}: {_named(list(map(str, values)))}."
    steps = sorted({int(r.summary["steps"]) for r in results.results if "steps" in r.summary})
    if len(steps) > 1:
        yield f"Cells were trained for different numbers of updates: {_named([f'{number:,}' for number in steps])}."
    numbers = sorted({*gains.fewest, *gains.most})
    if len(numbers) > 1:
        yield (
            f"Runs choose from different numbers of checkpoints ({_named(list(map(str, numbers)))}): the best of more "
            "is higher by chance alone, so what their settings gain by choosing does not compare."
        )
    for labels in same_settings(results)[:MANY]:
        yield f"Every run of {_named(labels)} gave the same scores: what they differ in had no effect."


def _named(labels: Sequence[str]) -> str:
    """The first of several names, each once, and how many more there are."""
    names = list(dict.fromkeys(labels))
    return "; ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
