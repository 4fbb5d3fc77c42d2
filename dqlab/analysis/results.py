"""What a grid has given so far (results, failures, what is still to come), and what its report shows of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dqlab.config.fields import check_field, check_fields
from dqlab.errors import ConfigError, nearest_of_few
from dqlab.tracking.selection_rules import SELECTION_RULES

if TYPE_CHECKING:
    from dqlab.config.registry import RegistryEntry
    from dqlab.tracking.records import InspectionRecord, SummaryRecord


WAITING, STARTING, RUNNING, FINISHED, FAILED = "waiting", "starting", "running", "finished", "failed"
"""States of a cell. One that starts reads data and, where that pays, compiles: half a minute or more."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid; settings that run the same have cells of one id."""

    id: str  # hexadecimal digest of what it runs; equal in every grid that has the same cell
    label: str = ""  # of its setting: `N=5, eta=1.0`
    points: Mapping[str, str] = field(default_factory=dict)  # its place on each axis: `{'N': '5', 'eta': '1.0'}`
    task: str = ""
    seed: int = 0
    scalars: Mapping[str, Any] = field(default_factory=dict)  # in which others of its pack may differ: full name, value
    kind: str = ""  # digest of everything else that it runs, and so of the packs that it fits into

    @property
    def replica(self) -> str:
        """The name of its folder in the pack's folder."""
        return f"cell-{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """What it is, for records; not how it is trained."""
        return {"id": self.id, "label": self.label, "points": dict(self.points), "task": self.task, "seed": self.seed}


@dataclass
class CellStatus:
    """A cell, and how far it is."""

    cell: Cell
    state: str = WAITING  # or STARTING, RUNNING, FINISHED, FAILED
    failure: str = ""  # why it has no result: `diverged` (it would again), `evaluation` or `crashed`
    reason: str = ""  # the same in words
    folder: Path | None = None  # where it has finished
    summary: SummaryRecord = field(default_factory=lambda: cast("SummaryRecord", {}))  # once it has been read
    share: float = 0.0  # of its updates that are done, 0 to 1
    last_score: float | None = None  # of its last evaluation

    def wait(self) -> None:
        """It has begun, or not, and is still to be done."""
        self.state, self.failure, self.reason = WAITING, "", ""

    def finish(self, folder: Path) -> None:
        """It has a summary there."""
        self.state, self.share, self.folder, self.failure, self.reason = FINISHED, 1.0, folder, "", ""

    def fail(self, failure: str, reason: str) -> None:
        """It ended without a result."""
        self.state, self.failure, self.reason = FAILED, failure, reason

    def score(self, rule: str) -> float:
        """The D4RL-normalised score of a finished cell by a selection rule."""
        return float(self.summary["selection"][rule]["score_mean"])


@dataclass(frozen=True)
class GridResults:
    """A grid as far as it has come: every cell is in `results` (with its summary), `failures` or `pending`."""

    name: str
    base: str  # the setting that the others are compared with
    labels: tuple[str, ...]  # of all settings, in the grid's order
    axes: Mapping[str, tuple[str, ...]]  # axis name -> the texts of its points, in order
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[CellStatus, ...]
    failures: tuple[CellStatus, ...] = ()
    pending: tuple[CellStatus, ...] = ()
    gin: str = ""  # the grid's configuration, flattened, as a gin text
    configs: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Task -> label -> the parameters of that setting there, of those that have finished."""
    facts: Mapping[str, Any] = field(default_factory=dict)  # `versions`, `device_names`, `git_commits`, `seconds`, ...
    components: tuple[RegistryEntry[Any], ...] = ()  # that its cells use, algorithms first
    inspections: Mapping[str, Mapping[str, InspectionRecord]] = field(default_factory=dict)
    """Task -> label -> what is inside of that setting's policy of the lowest seed."""

    @property
    def statuses(self) -> tuple[CellStatus, ...]:
        """Every cell: finished ones, then failures, then what is pending."""
        return (*self.results, *self.failures, *self.pending)

    @property
    def caveat(self) -> str:
        """What must stand beside every score, such as `not D4RL`; empty where nothing must."""
        return "; ".join(sorted({str(result.summary["caveat"]) for result in self.results} - {""}))


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

    @property
    def interval(self) -> str:
        """What captions call the intervals: `95% bootstrap interval`."""
        return f"{100 * self.confidence:g}% bootstrap interval"


def _check_reference(reference: Any) -> None:
    """That it is label -> task -> finite numbers: a score, and perhaps its error, which is not negative."""

    def check(fits: bool, place: str, wanted: str, given: Any) -> None:
        if not fits:
            raise ConfigError(f"Report.reference{place} must be {wanted}, not {given!r}.")

    check(_has_names(reference), "", "{label: {task: (score,)}}", reference)
    for label, tasks in reference.items():
        check(_has_names(tasks), f"['{label}']", "{task: (score,)}", tasks)
        for task, published in tasks.items():
            fits = isinstance(published, (tuple, list)) and len(published) in (1, 2)
            fits = fits and all(type(each) in (int, float) and abs(each) <= sys.float_info.max for each in published)
            fits = fits and all(error >= 0 for error in published[1:])
            check(fits, f"['{label}']['{task}']", "(score,) or (score, standard error)", published)


def _has_names(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
