"""Compare runs that were not planned together: groups of one configuration, scores with intervals, and warnings."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from rich.text import Text

from dqlab.analysis.finished_runs import FinishedRun, FoundRuns, find_runs
from dqlab.analysis.report.exports import latex_table
from dqlab.analysis.report.tables import ReportTable, TableColumn, TableValue, estimate_values, rich_table
from dqlab.analysis.resampling import Bootstrap, interquartile_mean, mean_score
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import BOUNDS
from dqlab.analysis.wording import finite_or_none
from dqlab.envs.caveats import score_or_return
from dqlab.errors import ConfigError, nearest
from dqlab.printing import Console
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.selection_rules import SELECTION_RULES

UNSET = "unset"
SHORT = 3
FEW = 5
METRICS = {"mean": mean_score, "iqm": interquartile_mean}
GAP = ("best_online", "last")


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration: a letter for tables, a name, and the runs, on whatever tasks."""

    letter: str
    name: str
    runs: tuple[FinishedRun, ...]

    @property
    def config(self) -> Mapping[str, str]:
        """The configuration that all of its runs have."""
        return self.runs[0].config


def group_runs(runs: Iterable[FinishedRun]) -> tuple[RunGroup, ...]:
    """Groups in the order in which they are met."""
    found: dict[object, list[FinishedRun]] = {}
    for run in runs:
        found.setdefault((frozenset(run.config.items()), run.physics), []).append(run)
    different = differing_parameters([runs[0].config for runs in found.values()])
    return tuple(
        RunGroup(_letter(place), _name(runs, different), tuple(runs)) for place, runs in enumerate(found.values())
    )


def differing_parameters(configs: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Parameters that are not the same in all configurations, in alphabetical order."""
    names = sorted({name for config in configs for name in config})
    return tuple(name for name in names if len({config.get(name, UNSET) for config in configs}) > 1)


def _letter(place: int) -> str:
    """A, ..., Z, AA, AB, ..."""
    more, last = divmod(place, len(ascii_uppercase))
    return (_letter(more - 1) if more else "") + ascii_uppercase[last]


def _name(runs: Sequence[FinishedRun], different: Sequence[str]) -> str:
    """The grid's label, or the first parameters that differ."""
    labels = {run.label for run in runs} - {""}
    if len(labels) == 1:
        return labels.pop()
    shown = [f"{name.rpartition('.')[2]}={runs[0].config.get(name, UNSET)}" for name in different[:SHORT]]
    return ", ".join(shown) + (", ..." if len(different) > SHORT else "")


ComparisonRows = Mapping[tuple[str, str, str], Sequence[FinishedRun]]
"""Letter of a group, task and digest of the data -> runs of different seeds, in the order of seeds."""


def comparison_rows(groups: Iterable[RunGroup]) -> ComparisonRows:
    """Each group on each task and data set; of two runs with the same seed the first one counts."""
    rows: dict[tuple[str, str, str], dict[int, FinishedRun]] = {}
    for group in groups:
        for run in group.runs:
            rows.setdefault((group.letter, run.task, run.digest), {}).setdefault(run.seed, run)
    return {row: [runs[seed] for seed in sorted(runs)] for row, runs in rows.items()}


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        groups: of runs of one configuration.
        different: parameters that are not the same in all groups.
        scores: group, name, task, data_digest, caveat, seeds, rule (or one minus another), metric (mean, iqm), point,
            low, high; bounds are NaN where one seed alone allows no interval.
        warnings: sentences.
        confidence, reps: of the intervals.
    """

    groups: tuple[RunGroup, ...]
    different: tuple[str, ...]
    scores: pd.DataFrame
    warnings: tuple[str, ...]
    confidence: float
    reps: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON: `scores` has a row a group, task, rule and metric."""
        groups = [
            {"group": g.letter, "name": g.name, "config": {n: g.config.get(n, UNSET) for n in self.different}}
            for g in self.groups
        ]
        scores = self.scores.assign(**{end: self.scores[end].map(finite_or_none).astype(object) for end in BOUNDS})
        facts = {"warnings": list(self.warnings), "confidence": self.confidence, "reps": self.reps}
        return {"groups": groups, "scores": scores.to_dict("records"), **facts}


def compare_groups(found: FoundRuns, rules: Sequence[str]) -> Comparison:
    """Group the runs, and score every group on every task.

    Raises:
        ConfigError: an unknown selection rule.
    """
    rules = [rule.replace("-", "_") for rule in rules]
    for rule in rules:
        if rule not in SELECTION_RULES:
            raise ConfigError(f"There is no selection rule '{rule}'. {nearest(rule, SELECTION_RULES)}")
    settings, groups = Report(), group_runs(found.runs)
    rows = comparison_rows(groups)
    scores = _scores(groups, rows, rules, Bootstrap(settings.reps, settings.confidence))
    different = differing_parameters([group.config for group in groups])
    warnings = comparison_warnings(found, groups, rows)
    return Comparison(groups, different, scores, warnings, settings.confidence, settings.reps)


def _scores(
    groups: Sequence[RunGroup], rows: ComparisonRows, rules: Sequence[str], bootstrap: Bootstrap
) -> pd.DataFrame:
    samples = {
        (*row, runs[0].caveat, tuple(run.seed for run in runs), rule): np.array(values)[:, None]
        for row, runs in rows.items()
        for rule, values in _samples(runs, rules).items()
    }
    found = bootstrap.of_each(samples, lambda drawn: np.stack([metric(drawn) for metric in METRICS.values()]))
    names = {group.letter: group.name for group in groups}
    tidy = [
        (letter, names[letter], task, digest, caveat, seeds, rule, metric, *numbers)
        for (letter, task, digest, caveat, seeds, rule), item in found.items()
        for metric, numbers in zip(METRICS, item.T.tolist(), strict=True)
    ]
    columns = ["group", "name", "task", "data_digest", "caveat", "seeds", "rule", "metric", *BOUNDS]
    return pd.DataFrame(tidy, columns=columns)


def _samples(runs: Sequence[FinishedRun], rules: Sequence[str]) -> dict[str, list[float]]:
    """The scores by each rule that all of a row's runs have, and what choosing the best by its score is worth."""
    scores = [run.scores for run in runs]
    known = [rule for rule in rules if all(rule in each for each in scores)]
    samples = {rule: [each[rule] for each in scores] for rule in known}
    if all(set(GAP) <= set(each) for each in scores):
        samples[" minus ".join(GAP)] = [each[GAP[0]] - each[GAP[1]] for each in scores]
    return samples


def comparison_warnings(found: FoundRuns, groups: Sequence[RunGroup], rows: ComparisonRows) -> tuple[str, ...]:
    """What must be said of a comparison, one sentence each."""
    about_groups = (_twice, _tasks, _physics, _versions)
    sentences = chain(*(about(groups) for about in about_groups), _data(rows), _seeds(rows))
    return (*_left_out(found), *sentences)


def _left_out(found: FoundRuns) -> Iterator[str]:
    for number, how in ((found.failed, "failed"), (found.unfinished, "not finished")):
        if number:
            yield f"{number} {'run has' if number == 1 else 'runs have'} {how}: left out."
    if found.gone:
        number, first = len(found.gone), found.gone[0]
        whose = "A reused cell is" if number == 1 else f"{number} reused cells are"
        yield f"{whose} gone ({first}{', ...' if number > 1 else ''}): left out. Run the grid again to train them here."
    yield from (f"Left out: {text}" for text in found.damaged)


def _twice(groups: Sequence[RunGroup]) -> Iterator[str]:
    for group in groups:
        counts = Counter((run.task, run.digest, run.seed) for run in group.runs)
        for (task, _, seed), number in counts.items():
            if number > 1:
                yield f"{group.letter} on {task} has {number} runs with seed {seed}: only the first one counts."


def _tasks(groups: Sequence[RunGroup]) -> Iterator[str]:
    by_task = _letters_by(groups, lambda run: run.task)
    if any(len(letters) < len(groups) for letters in by_task.values()):
        yield f"Not every configuration was run on every task: {_listed(by_task)}."


def _data(rows: ComparisonRows) -> Iterator[str]:
    for task in dict.fromkeys(task for _, task, _ in rows):
        letters: dict[str, list[str]] = {}
        for letter, other, digest in rows:
            if other == task:
                letters.setdefault(digest[:12], []).append(letter)
        if len(letters) > 1:
            yield f"{task}: the data differ (by digest {_listed(letters)}). Scores on different data do not compare."


def _physics(groups: Sequence[RunGroup]) -> Iterator[str]:
    letters = _letters_by(groups, lambda run: run.physics)
    if len(letters) > 1:
        yield f"The environments differ in what they compute ({_listed(letters)}): their scores do not compare."


def _versions(groups: Sequence[RunGroup]) -> Iterator[str]:
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.made_with)
    for name in names:
        letters = _letters_by(groups, partial(_made_with, name))
        if len(letters) > 1:
            yield f"Made with different {name}: {_listed(letters)}."


def _made_with(name: str, run: FinishedRun) -> str:
    return run.made_with.get(name, "") or "unknown"


def _seeds(rows: ComparisonRows) -> Iterator[str]:
    tasks = list(dict.fromkeys(task for _, task, _ in rows))
    for task in tasks:
        few = [f"{row[0]} ({len(runs)})" for row, runs in rows.items() if row[1] == task and len(runs) < FEW]
        if few:
            yield f"{task}: fewer than {FEW} seeds: {', '.join(few)}. Such intervals are too narrow."
    for task in tasks:
        if len({tuple(run.seed for run in runs) for row, runs in rows.items() if row[1] == task}) > 1:
            yield f"{task}: not every configuration has the same seeds."


def _letters_by(groups: Iterable[RunGroup], what: Callable[[FinishedRun], str]) -> dict[str, list[str]]:
    """What the runs say -> the letters of the groups whose runs say so."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for text in dict.fromkeys(what(run) for run in group.runs):
            found.setdefault(text, []).append(group.letter)
    return found


def _listed(letters: dict[str, list[str]]) -> str:
    return "; ".join(f"{text}: {', '.join(each)}" for text, each in letters.items())


MANY = 6
"""More groups than that are rows, not columns."""


def print_comparison(compared: Comparison, console: Console) -> None:
    """Print what differs, the scores on every task, and warnings."""
    console.print(rich_table(_differences(compared)) if len(compared.groups) > 1 else Text("One configuration."))
    for table in score_tables(compared):
        console.print(rich_table(table))
    percent = f"{100 * compared.confidence:g}%"
    console.print(
        f"Intervals: {percent}, of the mean and the interquartile mean (IQM) over seeds, {compared.reps:,} bootstrap "
        "samples. best-online chooses a checkpoint by the score that it then reports: it is too high."
    )
    for text in compared.warnings:
        console.print(Text(f"Warning: {text}", style="yellow"), soft_wrap=True)


def _differences(compared: Comparison) -> ReportTable:
    """The parameters that are not the same in all groups; of many groups each is a row."""
    groups, different = compared.groups, compared.different
    names = [f"{group.letter}: {group.name}" for group in groups]
    if not different:
        column = TableColumn("group", "", [TableValue(name) for name in names])
        return ReportTable("differences", "The same configuration", (column,))
    values = [[TableValue(group.config.get(name, UNSET)) for name in different] for group in groups]
    columns = (TableColumn(name, "", each) for name, each in zip(names, values, strict=True))
    parameters = TableColumn("parameter", "", [TableValue(name) for name in different])
    table = ReportTable("differences", "What differs in configuration", (parameters, *columns))
    return table.turned("group") if len(groups) > MANY else table


def score_tables(compared: Comparison) -> list[ReportTable]:
    """A table a task: a row a group and rule."""
    return [_score_table(str(task), scores, compared) for task, scores in compared.scores.groupby("task", sort=False)]


def _score_table(task: str, scores: pd.DataFrame, compared: Comparison) -> ReportTable:
    means, iqms = (scores[scores.metric == metric] for metric in METRICS)
    rows, said = list(means.itertuples()), "; ".join(sorted(set(scores.caveat) - {""}))
    several = scores.data_digest.nunique() > 1  # then each group is named with its data
    names = [f"{row.group}: {row.name}" + (f" | data {row.data_digest[:12]}" if several else "") for row in rows]
    columns = (
        TableColumn("Group", "", [TableValue(name) for name in names]),
        TableColumn("seeds", "", [TableValue(str(len(row.seeds)), "", len(row.seeds)) for row in rows]),
        TableColumn("rule", "", [TableValue(row.rule.replace("_", "-")) for row in rows]),
        TableColumn("mean", "", estimate_values(means)),
        TableColumn("IQM", "", estimate_values(iqms)),
    )
    title = f"{task}: {score_or_return(said)}s" + (f" ({said})" if said else "")
    caption = f"{title}. In brackets: {compared.confidence:.0%} bootstrap intervals over seeds."
    return ReportTable(f"compare-{task}", caption, columns)


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "json": lambda compared: json.dumps(compared.as_dict(), indent=1),
    "csv": lambda compared: str(
        compared.scores.assign(seeds=compared.scores.seeds.map(_listed_seeds)).to_csv(index=False)
    ),
    "latex": lambda compared: "\n".join(map(latex_table, score_tables(compared))),
}


def _listed_seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


RUNS = Path("runs")


def run_compare(
    runs: Sequence[str],
    experiment: str | None,
    wanted: str,
    uri: str | None,
    rules: Sequence[str] | None,
    form: str | None,
) -> None:
    """Compare what is named, and print it: as tables, or in one of FORMATS.

    Raises:
        DqlabError: something that is named is not there, or nothing has finished.
    """
    found = find_runs(runs, experiment, wanted, uri or tracking_uri(RUNS / "any"))
    compared = compare_groups(found, rules or Report().rules)
    if form is None:
        print_comparison(compared, Console())
    else:
        print(FORMATS[form](compared).rstrip("\n"))
        for text in compared.warnings if form != "json" else ():
            print(f"Warning: {text}", file=sys.stderr)
