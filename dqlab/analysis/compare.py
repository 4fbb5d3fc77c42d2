"""Compare runs that were not planned together: groups of one configuration, scores with intervals, and warnings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.text import Text

from dqlab.analysis.finished_runs import FoundRuns, Row, find_runs
from dqlab.analysis.report.tables import ReportTable, latex_table, rich_table, text_table, with_intervals
from dqlab.analysis.resampling import Bootstrap, interquartile_mean, mean_score
from dqlab.analysis.results import Report
from dqlab.analysis.statistics import BOUNDS, aggregates_of, tidy_rows
from dqlab.errors import ConfigError, nearest, score_or_return
from dqlab.printing import Console, counted
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.selection_rules import SELECTION_RULES

UNSET = "unset"
SHORT, FEW = 3, 5
METRICS = {"mean": mean_score, "iqm": interquartile_mean}
GAP = ("best_online", "last")
SAME = ["group", "task", "digest"]  # runs that are alike in these differ in their seeds only
MANY = 6  # more groups than that are rows, not columns


@dataclass(frozen=True)
class Comparison:
    """A comparison, with sentences that warn, and how its intervals are made."""

    groups: tuple[Mapping[str, Any], ...]
    """Of runs of one configuration: `group`, a letter; `name`; `config`, the parameters that differ between groups."""
    scores: pd.DataFrame
    """Group, name, task, data_digest, caveat, seeds, rule (or one minus another), metric (mean, iqm), point, low, high;
    bounds are NaN where one seed alone allows no interval."""
    warnings: tuple[str, ...]
    confidence: float
    reps: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON: `scores` has a row a group, task, rule and metric."""
        scores = self.scores.astype(dict.fromkeys(BOUNDS, object))
        return {**asdict(self), "scores": scores.where(scores.notna(), None).to_dict("records")}


def compare_groups(found: FoundRuns, rules: Sequence[str]) -> Comparison:
    """Group the runs, and score every group on every task. Raises ConfigError: an unknown selection rule."""
    rules = [rule.replace("-", "_") for rule in rules]
    for rule in rules:
        if rule not in SELECTION_RULES:
            raise ConfigError(f"There is no selection rule '{rule}'. {nearest(rule, SELECTION_RULES)}")
    settings, runs = Report(), group_runs(found.runs)
    groups = describe_groups(runs)
    scores = _scores(runs, rules, Bootstrap(settings.reps, settings.confidence))
    scores.insert(1, "name", scores.group.map({group["group"]: group["name"] for group in groups}))
    warnings = tuple(comparison_warnings(found, runs))
    return Comparison(groups, scores, warnings, settings.confidence, settings.reps)


def group_runs(runs: Sequence[Row]) -> pd.DataFrame:
    """A row a run; those of one configuration and physics have one letter in `group`: A, ..., Z, AA, AB, ..."""
    keys = [(frozenset(run["config"].items()), run["physics"]) for run in runs]
    names = ("".join(each) for size in count(1) for each in product(ascii_uppercase, repeat=size))
    letters = dict(zip(dict.fromkeys(keys), names, strict=False))
    return pd.DataFrame(list(runs)).assign(group=[letters[key] for key in keys])


def describe_groups(runs: pd.DataFrame) -> tuple[Mapping[str, Any], ...]:
    """Letter, name (the grid's label, or the first parameters that differ) and differing parameters of each group."""
    first = runs.drop_duplicates("group")
    configs = pd.DataFrame(list(first.config), index=first.group).fillna(UNSET)
    configs = configs.loc[:, configs.nunique() > 1].sort_index(axis=1)
    labels, groups = runs.label.groupby(runs.group).unique(), []
    for letter, *values in configs.itertuples(name=None):
        known, config = set(labels[letter]) - {""}, dict(zip(configs, values, strict=True))
        shown = [f"{name.rpartition('.')[2]}={value}" for name, value in list(config.items())[:SHORT]]
        name = known.pop() if len(known) == 1 else ", ".join(shown) + (", ..." if len(config) > SHORT else "")
        groups.append({"group": letter, "name": name, "config": config})
    return tuple(groups)


def _scores(runs: pd.DataFrame, rules: Sequence[str], bootstrap: Bootstrap) -> pd.DataFrame:
    """Each group on each task and data set, by the rules that all runs have; of runs with one seed the first counts."""
    samples: dict[tuple[Any, ...], NDArray[np.float64]] = {}
    for key, alike in runs.groupby(SAME, sort=False):
        own = alike.drop_duplicates("seed").sort_values("seed")
        shared = [rule for rule in rules if all(rule in each for each in own.scores)]
        known = {rule: np.array([each[rule] for each in own.scores]) for rule in shared}
        if set(GAP) <= set(known):  # what choosing the best by its score is worth
            known[" minus ".join(GAP)] = known[GAP[0]] - known[GAP[1]]
        about = (*key, own.caveat.iloc[0], tuple(own.seed))
        samples |= {(*about, rule): values[:, None] for rule, values in known.items()}
    tidy = tidy_rows(aggregates_of(samples, bootstrap, METRICS), METRICS)
    return pd.DataFrame(tidy, columns=["group", "task", "data_digest", "caveat", "seeds", "rule", "metric", *BOUNDS])


def comparison_warnings(found: FoundRuns, runs: pd.DataFrame) -> Iterator[str]:
    """What must be said of a comparison, one sentence each."""
    for number, how in ((found.failed, "failed"), (found.unfinished, "not finished")):
        if number:
            yield f"{number} {'run has' if number == 1 else 'runs have'} {how}: left out."
    if found.gone:
        gone = f"{counted(len(found.gone), 'reused cell')} gone, such as {found.gone[0]}"
        yield f"{gone}: left out. Run the grid again to train them here."
    yield from (f"Left out: {text}" for text in found.lost.out)
    repeated = runs.groupby([*SAME, "seed"], sort=False).size()
    for (group, task, _, seed), number in repeated[repeated > 1].items():
        yield f"{group} on {task} has {number} runs with seed {seed}: only the first one counts."
    if (runs.groupby("group").task.nunique() < runs.task.nunique()).any():
        yield f"Not every configuration was run on every task: {_differing(runs, runs.task)}."
    if said := _differing(runs, runs.physics):
        yield f"The environments differ in what they compute ({said}): their scores do not compare."
    made_with = pd.DataFrame(list(runs.made_with), index=runs.index).fillna("").replace("", "unknown")
    for name in made_with:
        if said := _differing(runs, made_with[name]):
            yield f"Made with different {name}: {said}."
    for task, of_task in runs.groupby("task", sort=False):
        if said := _differing(of_task, of_task.digest.str[:12]):
            yield f"{task}: the data differ (by digest {said}). Scores on different data do not compare."
        seeds = of_task.groupby(SAME, sort=False).seed.agg(frozenset)
        if few := [f"{key[0]} ({len(own)})" for key, own in seeds.items() if len(own) < FEW]:
            yield f"{task}: fewer than {FEW} seeds: {', '.join(few)}. Such intervals are too narrow."
        if seeds.nunique() > 1:
            yield f"{task}: not every configuration has the same seeds."


def _differing(runs: pd.DataFrame, values: pd.Series) -> str:
    """What the runs say, each with the letters of the groups whose runs say so; empty where all say the same."""
    letters = runs.group.groupby(values, sort=False).unique()
    return "; ".join(f"{text}: {', '.join(each)}" for text, each in letters.items()) if len(letters) > 1 else ""


def print_comparison(compared: Comparison, console: Console) -> None:
    """Print what differs, the scores on every task, and warnings."""
    configs = {f"{group['group']}: {group['name']}": group["config"] for group in compared.groups}
    rows = [(name, *(config[name] for config in configs.values())) for name in compared.groups[0]["config"]]
    table = text_table("differences", "What differs in configuration", ["parameter", *configs], rows)
    if not rows:
        table = text_table("differences", "The same configuration", ["group"], [(name,) for name in configs])
    elif len(configs) > MANY:
        table = table.turned("group")
    console.print(rich_table(table) if len(configs) > 1 else Text("One configuration."))
    for table in score_tables(compared):
        console.print(rich_table(table))
    intervals = f"Intervals: {100 * compared.confidence:g}%, of the mean and the interquartile mean (IQM) over seeds"
    biased = "best-online chooses a checkpoint by the score that it then reports: it is too high."
    console.print(f"{intervals}, {compared.reps:,} bootstrap samples. {biased}")
    for text in compared.warnings:
        console.print(Text(f"Warning: {text}", style="yellow"), soft_wrap=True)


def score_tables(compared: Comparison) -> Iterator[ReportTable]:
    """A table a task: a row a group and rule."""
    for task, scores in compared.scores.groupby("task", sort=False):
        means, iqms = (scores[scores.metric == metric] for metric in METRICS)
        several = scores.data_digest.nunique() > 1  # then each group is named with its data
        names = means["group"] + ": " + means["name"] + (" | data " + means.data_digest.str[:12] if several else "")
        seeds, rules = [str(len(seeds)) for seeds in means.seeds], means.rule.str.replace("_", "-")
        rows = zip(names, seeds, rules, with_intervals(means), with_intervals(iqms), strict=True)
        said = "; ".join(sorted(set(scores.caveat) - {""}))
        caption = f"{task}: {score_or_return(said)}s" + (f" ({said})" if said else "")
        caption += f". In brackets: {compared.confidence:.0%} bootstrap intervals over seeds."
        yield text_table(f"compare-{task}", caption, ["Group", "seeds", "rule", "mean", "IQM"], rows)


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "json": lambda compared: json.dumps(compared.as_dict(), indent=1),
    "csv": lambda compared: str(
        compared.scores.assign(seeds=[" ".join(map(str, seeds)) for seeds in compared.scores.seeds]).to_csv(index=False)
    ),
    "latex": lambda compared: "\n".join(map(latex_table, score_tables(compared))),
}


def run_compare(
    runs: Sequence[str], experiment: str | None, wanted: str, uri: str | None, rules: list[str] | None, form: str | None
) -> None:
    """Compare what is named, and print it: as tables, or in one of FORMATS."""
    found = find_runs(runs, experiment, wanted, uri or tracking_uri(Path("runs/any")))
    compared = compare_groups(found, rules or Report().rules)
    if form is None:
        print_comparison(compared, Console())
    else:
        print(FORMATS[form](compared).rstrip("\n"))
        for text in compared.warnings if form != "json" else ():
            print(f"Warning: {text}", file=sys.stderr)
