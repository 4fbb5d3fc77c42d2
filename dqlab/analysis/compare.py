"""Compare runs that were not planned together: groups of one configuration, scores with intervals, and warnings.

What is compared: finished runs with one seed each, wherever they were recorded.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.text import Text

from dqlab.analysis.report.tables import ReportTable, latex_table, rich_table, text_table, with_intervals
from dqlab.analysis.resampling import Bootstrap, interquartile_mean, mean_score
from dqlab.analysis.results import Report
from dqlab.analysis.statistics import BOUNDS, aggregates_of, tidy_rows
from dqlab.config.identity import LATER, Replica, describes_setting, replicas_of
from dqlab.errors import ConfigError, RunError, masked, nearest, one_line, score_or_return
from dqlab.files import read_text
from dqlab.printing import Console, counted
from dqlab.tracking import folders
from dqlab.tracking.mlflow import client
from dqlab.tracking.mlflow.client import mlflow_client, tracking_uri
from dqlab.tracking.mlflow.tree import run_tags
from dqlab.tracking.records import GridRecord, RunRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import FAILURE, RunFolder
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

UNSET = "unset"
ALGORITHM = "Experiment.algorithm"
FEW = 5
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
    for rule in map(rule_name, rules):
        if rule not in (known := list(map(rule_name, SELECTION_RULES))):
            raise ConfigError(f"There is no selection rule '{rule}'. {nearest(rule, known)}")
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
    configs = _with_earlier_values(pd.DataFrame(list(first.config), index=first.group)).fillna(UNSET)
    configs = configs.loc[:, configs.nunique() > 1].sort_index(axis=1)
    labels, told = runs.label.groupby(runs.group).unique(), _told_apart(configs)
    known = {letter: [label for label in labels[letter] if label] for letter in configs.index}
    names = {letter: own[0] if len(own) == 1 else told[letter] for letter, own in known.items()}
    rows = configs.to_dict("index")
    return tuple({"group": letter, "name": name, "config": rows.get(letter, {})} for letter, name in names.items())


def _with_earlier_values(configs: pd.DataFrame) -> pd.DataFrame:
    """With a parameter that came later, where others have set it, also in groups that ran as before it came."""
    for name in LATER.keys() & {*configs}:
        own = configs.loc[:, configs.columns.str.startswith(name.partition(".")[0] + ".")].notna().any(axis=1)
        configs[name] = configs[name].mask(configs[name].isna() & own, str(LATER[name]))
    return configs


def _told_apart(configs: pd.DataFrame) -> pd.Series:
    """Each group's algorithm, where there are several, and the first parameters that tell it from groups like it."""
    names = pd.Series("", configs.index)
    for column in sorted(configs, key=lambda name: name != ALGORITHM):
        alike = configs[column].groupby(names).transform("nunique") == 1
        text = configs[column] if column == ALGORITHM else f"{column.rpartition('.')[2]}=" + configs[column]
        names = names.where(alike, names + ", " + text)
    return names.str.removeprefix(", ")


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
    yield from (f"Left out: {text}" for text in found.lost.said())
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
            none = "; one seed has none" if min(map(len, seeds)) == 1 else ""
            yield f"{task}: fewer than {FEW} seeds: {', '.join(few)}. Such intervals are too narrow{none}."
        if seeds.nunique() > 1:
            yield f"{task}: not every configuration has the same seeds."


def _differing(runs: pd.DataFrame, values: pd.Series) -> str:
    """What the runs say, each with the letters of the groups whose runs say so; empty where all say the same."""
    letters = runs.group.groupby(values, sort=False).unique()
    return "; ".join(f"{text}: {', '.join(each)}" for text, each in letters.items()) if len(letters) > 1 else ""


def print_comparison(compared: Comparison, console: Console) -> None:
    """Print what differs, the scores on every task, and warnings."""
    configs = {f"{group['group']}: {group['name']}": group["config"] for group in compared.groups}
    differing = list(compared.groups[0]["config"])
    shared = [name for name in differing if sum(config[name] != UNSET for config in configs.values()) > 1]
    shown = shared if ALGORITHM in differing else differing
    rows = [(name, *(config[name] for config in configs.values())) for name in shown]
    table = text_table("differences", "What differs in configuration", ["parameter", *configs], rows)
    if len(configs) > MANY:
        table = table.turned("group")
    console.print(rich_table(table) if rows else Text("One configuration."))
    if left := len(differing) - len(shown):
        console.say(f"Left out: {counted(left, 'parameter')} that one configuration alone has; --json has them.")
    for table in score_tables(compared):
        console.print(rich_table(table))
    biased = "best-online chooses a checkpoint by the score that it then reports: it is too high."
    console.say(f"IQM: the interquartile mean over seeds. {biased}")
    for text in compared.warnings:
        console.say(f"Warning: {text}", style="yellow")


def score_tables(compared: Comparison) -> Iterator[ReportTable]:
    """A table a task: a row a group and rule."""
    for task, scores in compared.scores.groupby("task", sort=False):
        means, iqms = (scores[scores.metric == metric] for metric in METRICS)
        several = scores.data_digest.nunique() > 1  # then each group is named with its data
        names = means["group"] + ": " + means["name"] + (" | data " + means.data_digest.str[:12] if several else "")
        seeds, rules = [str(len(seeds)) for seeds in means.seeds], map(rule_name, means.rule)
        rows = zip(names, seeds, rules, with_intervals(means), with_intervals(iqms), strict=True)
        said = "; ".join(sorted(set(scores.caveat) - {""}))
        caption = f"{task}: {score_or_return(said)}s" + (f" ({said})" if said else "") + "."
        if scores.low.notna().any():
            samples = f"{compared.reps:,} bootstrap samples"
            caption += f" In brackets: {100 * compared.confidence:g}% intervals over seeds, {samples}."
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


RUN_ID = re.compile(r"[0-9a-f]{32}")
SUMMARY = "summary.json"
Row = dict[str, Any]
"""A finished run of one seed: name (of its folder or MLflow run), label (of the grid's setting), task, seed, caveat,
physics, digest (of its data), config (as text, without what makes no difference), made_with (versions, commit and
device), scores (D4RL-normalised, by selection rule)."""


@dataclass
class FoundRuns:
    """What there is at one place, or several: finished runs, how many are not, and why others cannot be read."""

    runs: list[Row] = field(default_factory=list)
    failed: int = 0
    unfinished: int = 0
    lost: folders.SkippedRecords = field(default_factory=folders.SkippedRecords)

    def add(self, other: FoundRuns) -> None:
        """What there is at another place; what is named twice counts once."""
        self.runs = list({run["name"]: run for run in [*self.runs, *other.runs]}.values())
        self.failed, self.unfinished = self.failed + other.failed, self.unfinished + other.unfinished
        self.lost.out = list(dict.fromkeys([*self.lost.out, *other.lost.out]))


def find_runs(runs: Sequence[str], experiment: str | None, wanted: str, uri: str) -> FoundRuns:
    """The runs that are named: folders, MLflow's run ids, or an MLflow experiment; an error where none has finished."""
    if not runs and not experiment:
        raise ConfigError("dqlab compare wants folders of runs or grids, MLflow run ids, or --experiment NAME.")
    if wanted and not experiment:
        raise ConfigError("--filter belongs to --experiment.")
    found = FoundRuns()
    for name in runs:
        if Path(name).exists():
            found.add(read_folder(Path(name)))
        elif RUN_ID.fullmatch(name):
            with _asking(uri) as store:
                found.add(_replicas(store, _below(store, store.get_run(name))))
        else:
            raise RunError(f"There is no folder '{name}', and an MLflow run's id it is not (32 hexadecimal digits).")
    if experiment:
        with _asking(uri) as store:
            known = store.get_experiment_by_name(experiment)
            if known is None:
                advice = nearest(experiment, [item.name for item in store.search_experiments()])
                raise RunError(f"MLflow ({masked(uri)}) has no experiment '{experiment}'. {advice}")
            found.add(_replicas(store, client.all_runs(store, [known.experiment_id], wanted)))
    if not found.runs:
        where = f"the experiment '{experiment}'" if experiment else ", ".join(runs)
        filtered = f' with the filter "{wanted}"' if wanted else ""
        numbers = f"({found.failed} failed, {found.unfinished} not finished)"
        nothing = f"Nothing to compare: no run of {where}{filtered} has finished {numbers}."
        raise RunError(" ".join([nothing, *found.lost.out[:1]]))
    return found


def _read_config(path: Path) -> dict[str, str]:
    """What a run's config.gin binds."""
    from dqlab.config.gin_files import parse_bindings

    return comparable(parse_bindings(read_text(path), str(path)))


def comparable(given: Mapping[str, Any]) -> dict[str, str]:
    """A flat configuration as text, without what makes no difference to a run; what came later, where it is chosen."""
    return {name: str(value)[: client.LONGEST_VALUE] for name, value in given.items() if describes_setting(name, value)}


def read_folder(path: Path) -> FoundRuns:
    """All runs in a run's or a grid's folder; of those that are damaged it is said why."""
    folders.read_facts(path)
    found = FoundRuns()
    if not folders.is_grid(path):
        _read_run(path, found, set())
        return found
    facts, lost = read_record(path / folders.GRID, GridRecord), folders.SkippedRecords()
    packs = [path / "packs" / name for name in facts["packs"]]
    counted = {summary.parent.name for pack in packs for summary in pack.glob(f"*/{SUMMARY}")}
    for folder in packs:
        with lost.damaged():
            if (folder / folders.RUN).exists():
                _read_run(folder, found, counted)
    here = {Path(run["name"]).name for run in found.runs}  # a cell that another grid has trained, too, counts once
    elsewhere = {cell: place for cell, place in folders.reused_cells(facts).items() if f"cell-{cell}" not in here}
    for place, own, pack in folders.read_reused(path, elsewhere, found.lost):
        with found.lost.damaged():
            found.runs.append(_compared(RunFolder(place.parent), Replica(place.name, own["seed"], own["label"]), pack))
    if lost.out:
        found.lost.out += lost.out
    else:
        seen = len(found.runs) + found.failed + len(found.lost.out)
        found.unfinished = max(facts["cells"] - seen, found.unfinished)
    return found


def _read_run(path: Path, found: FoundRuns, counted: set[str]) -> None:
    """The replicas of a run or of a pack, but for those without a result that are `counted`; they are from now on."""
    folder = RunFolder(path)
    facts = folder.facts()
    for replica in replicas_of(facts):
        place = folder.replica(replica.name)
        finished = (place / SUMMARY).exists()
        if not finished and replica.name in counted:
            continue
        counted.add(replica.name)
        if (place / FAILURE).exists():
            found.failed += 1
        elif not finished:
            found.unfinished += 1
        else:
            with found.lost.damaged():
                found.runs.append(_compared(folder, replica, facts))


def _compared(folder: RunFolder, replica: Replica, facts: RunRecord) -> Row:
    place = folder.replica(replica.name)
    summary = read_record(place / SUMMARY, SummaryRecord)
    scored = {name: summary[name] for name in ("task", "caveat", "physics")}
    tags = {**run_tags(facts), **scored, "seed": str(replica.seed)}
    tags |= {"cell": replica.cell} if replica.cell else {}
    scores = {rule: row["score_mean"] for rule, row in summary["selection"].items()}
    return _row(str(place.resolve()), tags, _read_config(folder.config_of(replica.name)), scores)


@contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """A client whose failures are told in one line."""
    if (path := client.store_path(uri)) and not path.exists():
        raise RunError(f"There is no MLflow store {masked(uri)}. Name one with --uri, or by MLFLOW_TRACKING_URI.")
    with client.client_environment():
        try:
            yield mlflow_client(uri)
        except RunError:
            raise
        except Exception as error:  # whatever the client raises
            silent = "Max retries exceeded" in str(error)
            why = "the server does not answer" if silent else one_line(error).rstrip(".")
            raise RunError(f"MLflow ({masked(uri)}): {why}.") from error


def _below(store: Any, run: Any) -> list[Any]:
    """The run, or, where it is a run's, a pack's or a grid's parent, those below it."""
    if "seed" in run.data.tags:
        return [run]
    children = client.all_runs(store, [run.info.experiment_id], f"tags.`{client.PARENT}` = '{run.info.run_id}'")
    return [found for child in children for found in _below(store, child)]


def _replicas(store: Any, runs: list[Any]) -> FoundRuns:
    """Of each replica's runs, and of the attempts at a grid's cell the last one; parents have no seed."""
    found, files, latest = FoundRuns(), dict[str, Mapping[str, str]](), dict[Any, Any]()
    replicas = (run for run in runs if "seed" in run.data.tags)
    for run in sorted(replicas, key=lambda run: run.info.start_time):
        tags = run.data.tags
        key = tags.get(client.KEY, "").rpartition(" ")[2]
        latest[(tags[client.OWNER], key) if key else run.info.run_id] = run
    for run in latest.values():
        if run.info.status == "FINISHED":
            digest = run.data.tags.get("config_digest")  # of a grid's cell, which has few parameters
            if digest and digest not in files:
                client.named_place(store, run.info.run_id)  # asks no server that only the store names
                with tempfile.TemporaryDirectory() as folder:
                    files[digest] = _read_config(Path(store.download_artifacts(run.info.run_id, "config.gin", folder)))
            config = files[digest] if digest else comparable(run.data.params)
            metrics = run.data.metrics.items()
            scores = {name.removeprefix("score/"): value for name, value in metrics if name.startswith("score/")}
            found.runs.append(_row(run.info.run_id, run.data.tags, config, scores))
        elif run.info.status == "FAILED":
            found.failed += 1
        else:
            found.unfinished += 1
    return found


def _row(name: str, tags: Mapping[str, str], config: Mapping[str, str], scores: Mapping[str, float]) -> Row:
    """A run by its name and by what `run_tags` and its replica say of it."""
    row: Row = {"name": name, "label": tags.get("cell", ""), "config": config, "scores": scores}
    row |= {"task": tags["task"], "seed": int(tags["seed"]), "caveat": tags.get("caveat", "")}
    row |= {"physics": tags["physics"], "digest": tags["data_digest"]}
    versions = {key.removeprefix("version."): text for key, text in tags.items() if key.startswith("version.")}
    made_with = {**versions, "commit": tags.get("git_commit", ""), "device": tags.get("device_name", "")}
    return {**row, "made_with": made_with}
