"""Compare runs: from names to groups, scores with intervals, and warnings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import RULES
from dqlab.ablation.statistics.aggregates import aggregates_of
from dqlab.ablation.statistics.analysis import Estimate
from dqlab.ablation.statistics.matrices import Of
from dqlab.ablation.statistics.resampling import Bootstrap
from dqlab.comparison.finished_runs import Found
from dqlab.comparison.folders import read_folder
from dqlab.comparison.groups import UNSET, Group, Row, differing, grouped, rows_of
from dqlab.comparison.stored import read_experiment, read_run
from dqlab.comparison.warnings import warnings
from dqlab.errors import ConfigError, RunError, nearest

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

    groups: tuple[Group, ...]
    different: tuple[str, ...]
    scores: tuple[tuple[Row, tuple[Score, ...]], ...]
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


def find(runs: Sequence[str], experiment: str | None, wanted: str, uri: str) -> Found:
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
    found = Found.all_of([*parts, *([read_experiment(uri, experiment, wanted)] if experiment else [])])
    if not found.runs:
        where = f"the experiment '{experiment}'" if experiment else ", ".join(runs)
        filtered = f' with the filter "{wanted}"' if wanted else ""
        raise RunError(
            f"Nothing to compare: no run of {where}{filtered} has finished "
            f"({found.failed} failed, {found.unfinished} not finished)." + "".join(f" {text}" for text in _lost(found))
        )
    return found


def _lost(found: Found) -> list[str]:
    """Why the first of those is left out that are damaged or gone."""
    return [*found.damaged, *(f"{path} is gone." for path in found.gone)][:1]


def _find(name: str, uri: str) -> Found:
    if Path(name).exists():
        return read_folder(Path(name))
    if RUN_ID.fullmatch(name):
        return read_run(uri, name)
    raise RunError(f"There is no folder '{name}', and an MLflow run's id it is not (32 hexadecimal digits).")


def compare(found: Found, rules: Sequence[str]) -> Compared:
    """Group the runs, and score every group on every task.

    Raises:
        ConfigError: an unknown selection rule.
    """
    rules = [rule.replace("-", "_") for rule in rules]
    for rule in rules:
        if rule not in RULES:
            raise ConfigError(f"There is no selection rule '{rule}'. {nearest(rule, RULES)}")
    settings, groups = Report(), grouped(found.runs)
    rows = rows_of(groups)
    scores = _scores(rows, rules, Bootstrap(settings.reps, settings.confidence))
    different = differing([group.config for group in groups])
    return Compared(groups, different, scores, warnings(found, groups, rows), settings.confidence, settings.reps)


def _scores(
    rows: Sequence[Row], rules: Sequence[str], bootstrap: Bootstrap
) -> tuple[tuple[Row, tuple[Score, ...]], ...]:
    samples = {
        Of(name, str(place)): np.array(values)[:, None]
        for place, row in enumerate(rows)
        for name, values in _samples(row, rules).items()
    }
    by_row: dict[str, list[Score]] = {str(place): [] for place in range(len(rows))}
    for of, values in aggregates_of(samples, bootstrap).items():
        by_row[of.label].append(Score(of.rule, values.mean, values.iqm))
    return tuple((row, tuple(scores)) for row, scores in zip(rows, by_row.values(), strict=True))


def _samples(row: Row, rules: Sequence[str]) -> dict[str, list[float]]:
    """The scores by each rule that all of a row's runs have, and what choosing the best by its score is worth."""
    scores = [run.scores for run in row.runs]
    known = [rule for rule in rules if all(rule in each for each in scores)]
    samples = {rule: [each[rule] for each in scores] for rule in known}
    if all(set(GAP) <= set(each) for each in scores):
        samples[" minus ".join(GAP)] = [each[GAP[0]] - each[GAP[1]] for each in scores]
    return samples
