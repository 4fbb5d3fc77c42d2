"""Compare runs: from names to groups, scores with intervals, and warnings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from dqlab.analysis.compare.runs import FinishedRun, FoundRuns, read_experiment, read_folder, read_run
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import Estimate
from dqlab.analysis.statistics.bootstrap import Bootstrap
from dqlab.analysis.statistics.tables import ScoreKey, aggregates_of
from dqlab.errors import ConfigError, RunError, nearest
from dqlab.tracking.selection_rules import SELECTION_RULES

UNSET = "unset"
SHORT = 3


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


@dataclass(frozen=True)
class ComparisonRow:
    """A group on one task and one data set: runs of different seeds, in the order of seeds."""

    group: RunGroup
    task: str
    digest: str
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its runs."""
        return tuple(run.seed for run in self.runs)


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


def comparison_rows(groups: Iterable[RunGroup]) -> tuple[ComparisonRow, ...]:
    """Each group on each task and data set; of two runs with the same seed the first one counts."""
    rows = []
    for group in groups:
        kinds = dict.fromkeys((run.task, run.digest) for run in group.runs)
        for task, digest in kinds:
            runs = [run for run in reversed(group.runs) if (run.task, run.digest) == (task, digest)]
            by_seed = {run.seed: run for run in runs}
            rows.append(ComparisonRow(group, task, digest, tuple(by_seed[seed] for seed in sorted(by_seed))))
    return tuple(rows)


FEW = 5


def comparison_warnings(found: FoundRuns, groups: Sequence[RunGroup], rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
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


def _data(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    for task in dict.fromkeys(row.task for row in rows):
        letters: dict[str, list[str]] = {}
        for row in rows:
            if row.task == task:
                letters.setdefault(row.digest[:12], []).append(row.group.letter)
        if len(letters) > 1:
            yield f"{task}: the data differ (by digest {_listed(letters)}). Scores on different data do not compare."


def _physics(groups: Sequence[RunGroup]) -> Iterator[str]:
    letters = _letters_by(groups, lambda run: run.physics)
    if len(letters) > 1:
        yield f"The physics differ ({_listed(letters)}). Scores under different physics do not compare."


def _versions(groups: Sequence[RunGroup]) -> Iterator[str]:
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.made_with)
    for name in names:
        letters = _letters_by(groups, partial(_made_with, name))
        if len(letters) > 1:
            yield f"Made with different {name}: {_listed(letters)}."


def _made_with(name: str, run: FinishedRun) -> str:
    return run.made_with.get(name, "") or "unknown"


def _seeds(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    for task in dict.fromkeys(row.task for row in rows):
        few = [f"{row.group.letter} ({len(row.seeds)})" for row in rows if row.task == task and len(row.seeds) < FEW]
        if few:
            yield f"{task}: fewer than {FEW} seeds: {', '.join(few)}. Such intervals are too narrow."
    for task in dict.fromkeys(row.task for row in rows):
        if len({row.seeds for row in rows if row.task == task}) > 1:
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


RUN_ID = re.compile(r"[0-9a-f]{32}")
GAP = ("best_online", "last")


@dataclass(frozen=True)
class Score:
    """By one rule (or of one rule's score minus another's): mean and interquartile mean over seeds, with intervals."""

    rule: str
    mean: Estimate
    iqm: Estimate


@dataclass(frozen=True)
class Compared:
    """A comparison: groups, what differs between them, and every group's scores on every task."""

    groups: tuple[RunGroup, ...]
    different: tuple[str, ...]
    scores: tuple[tuple[ComparisonRow, tuple[Score, ...]], ...]
    warnings: tuple[str, ...]
    confidence: float
    reps: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        groups = [
            {"group": g.letter, "name": g.name, "config": {n: g.config.get(n, UNSET) for n in self.different}}
            for g in self.groups
        ]
        return {
            "groups": groups,
            "tasks": {task: self._on(task) for task in dict.fromkeys(row.task for row, _ in self.scores)},
            "warnings": list(self.warnings),
            "confidence": self.confidence,
            "reps": self.reps,
        }

    def _on(self, task: str) -> list[dict[str, Any]]:
        return [
            {
                "group": row.group.letter,
                "data_digest": row.digest,
                "caveat": row.runs[0].caveat,
                "seeds": row.seeds,
                "scores": {score.rule: {"mean": asdict(score.mean), "iqm": asdict(score.iqm)} for score in scores},
            }
            for row, scores in self.scores
            if row.task == task
        ]


def find_runs(runs: Sequence[str], experiment: str | None, wanted: str, uri: str) -> FoundRuns:
    """The runs that are named: folders, MLflow's run ids, or an MLflow experiment.

    Raises:
        ConfigError: nothing is named, or a filter without an experiment.
        RunError: something that is named is not there, or nothing has finished.
    """
    if not runs and not experiment:
        raise ConfigError("dqlab compare wants folders of runs or grids, MLflow run ids, or --experiment NAME.")
    if wanted and not experiment:
        raise ConfigError("--filter belongs to --experiment.")
    parts = [_find(name, uri) for name in runs]
    found = FoundRuns.all_of([*parts, *([read_experiment(uri, experiment, wanted)] if experiment else [])])
    if not found.runs:
        where = f"the experiment '{experiment}'" if experiment else ", ".join(runs)
        filtered = f' with the filter "{wanted}"' if wanted else ""
        raise RunError(
            f"Nothing to compare: no run of {where}{filtered} has finished "
            f"({found.failed} failed, {found.unfinished} not finished)." + "".join(f" {text}" for text in _lost(found))
        )
    return found


def _lost(found: FoundRuns) -> list[str]:
    """Why the first of those is left out that are damaged or gone."""
    return [*found.damaged, *(f"{path} is gone." for path in found.gone)][:1]


def _find(name: str, uri: str) -> FoundRuns:
    if Path(name).exists():
        return read_folder(Path(name))
    if RUN_ID.fullmatch(name):
        return read_run(uri, name)
    raise RunError(f"There is no folder '{name}', and an MLflow run's id it is not (32 hexadecimal digits).")


def compare_groups(found: FoundRuns, rules: Sequence[str]) -> Compared:
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
    scores = _scores(rows, rules, Bootstrap(settings.reps, settings.confidence))
    different = differing_parameters([group.config for group in groups])
    return Compared(
        groups, different, scores, comparison_warnings(found, groups, rows), settings.confidence, settings.reps
    )


def _scores(
    rows: Sequence[ComparisonRow], rules: Sequence[str], bootstrap: Bootstrap
) -> tuple[tuple[ComparisonRow, tuple[Score, ...]], ...]:
    samples = {
        ScoreKey(name, str(place)): np.array(values)[:, None]
        for place, row in enumerate(rows)
        for name, values in _samples(row, rules).items()
    }
    by_row: dict[str, list[Score]] = {str(place): [] for place in range(len(rows))}
    for of, values in aggregates_of(samples, bootstrap).items():
        by_row[of.label].append(Score(of.rule, values.mean, values.iqm))
    return tuple((row, tuple(scores)) for row, scores in zip(rows, by_row.values(), strict=True))


def _samples(row: ComparisonRow, rules: Sequence[str]) -> dict[str, list[float]]:
    """The scores by each rule that all of a row's runs have, and what choosing the best by its score is worth."""
    scores = [run.scores for run in row.runs]
    known = [rule for rule in rules if all(rule in each for each in scores)]
    samples = {rule: [each[rule] for each in scores] for rule in known}
    if all(set(GAP) <= set(each) for each in scores):
        samples[" minus ".join(GAP)] = [each[GAP[0]] - each[GAP[1]] for each in scores]
    return samples
