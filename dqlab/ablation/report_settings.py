"""What a grid's report shows, as gin sets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dqlab.ablation.results import RULES
from dqlab.errors import ConfigError, nearest_of_few
from dqlab.fields import check_fields, require
from dqlab.registry import configurable

Reference = Mapping[str, Mapping[str, tuple[float, ...]]]


@configurable("ablation")
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
        require(self.reps >= 100, self, "reps", "at least 100")
        require(0.0 < self.confidence < 1.0, self, "confidence", "between 0 and 1")
        require(bool(self.rules), self, "rules", "at least one selection rule")
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise ConfigError(f"Report.rules: '{unknown[0]}' is no selection rule. {nearest_of_few(unknown[0], RULES)}")
