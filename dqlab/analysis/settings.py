"""What a grid's report shows. `dqlab.ablation.grid` makes it a configurable of gin's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dqlab.config.fields import check_field, check_fields
from dqlab.errors import ConfigError, nearest_of_few
from dqlab.tracking.selection_rules import SELECTION_RULES

Reference = Mapping[str, Mapping[str, tuple[float, ...]]]


@dataclass(frozen=True)
class Report:
    """What a grid's report shows.

    Attributes:
        rules: selection rules shown first, of last, offline, best_online and mean_last_10; all four are computed.
        reps: bootstrap repetitions of every interval.
        confidence: of every interval.
        reference: published scores beside ours: label -> task -> (score,) or (score, standard error); `average` in
            place of a task stands for all tasks of the grid.
        reference_rule: the selection rule that the published scores were obtained with.
        reference_source: paper and table that they are from.
    """

    rules: tuple[str, ...] = ("last", "offline", "best_online")
    reps: int = 2000
    confidence: float = 0.95
    reference: Reference = field(default_factory=dict)
    reference_rule: str = "offline"
    reference_source: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.reps >= 100, self, "reps", "at least 100")
        check_field(0.0 < self.confidence < 1.0, self, "confidence", "between 0 and 1")
        listed = isinstance(self.rules, (tuple, list)) and bool(self.rules)
        check_field(listed, self, "rules", "a tuple of at least one selection rule")
        for place, rule in (*(("rules: ", rule) for rule in self.rules), ("reference_rule=", self.reference_rule)):
            if not isinstance(rule, str) or rule not in SELECTION_RULES:
                known = nearest_of_few(str(rule), SELECTION_RULES)
                raise ConfigError(f"Report.{place}{rule!r} is no selection rule. {known}")
        check_field(len(set(self.rules)) == len(self.rules), self, "rules", "different selection rules")
        _check_reference(self.reference)


def _check_reference(reference: Any) -> None:
    _check_names(reference, "Report.reference", "{label: {task: (score,)}}")
    for label, tasks in reference.items():
        _check_names(tasks, f"Report.reference['{label}']", "{task: (score,)}")
        for task, published in tasks.items():
            if not _is_score(published):
                where = f"Report.reference['{label}']['{task}']"
                raise ConfigError(f"{where} must be (score,) or (score, standard error), not {published!r}.")


def _check_names(given: Any, place: str, wanted: str) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"{place} must be {wanted}, not {given!r}.")


def _is_score(published: Any) -> bool:
    """Whether it is finite numbers: a score, and perhaps its error, which is not negative."""
    if not isinstance(published, (tuple, list)) or len(published) not in (1, 2):
        return False
    numbers = all(type(number) in (int, float) and abs(number) <= sys.float_info.max for number in published)
    return numbers and (len(published) == 1 or published[1] >= 0)
