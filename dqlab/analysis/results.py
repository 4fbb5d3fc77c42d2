"""What a grid has given so far: results, failures, and what is still to come. Statistics and reports read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from dqlab.config.registry import RegistryEntry
    from dqlab.tracking.records import InspectionRecord, SummaryRecord


WAITING, STARTING, RUNNING, FINISHED, FAILED = "waiting", "starting", "running", "finished", "failed"
"""States of a cell. One that starts reads data and, where that pays, compiles: half a minute or more."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid; settings that run the same have cells of one id.

    Attributes:
        id: hexadecimal digest of what it runs; equal in every grid that has the same cell.
        label: of its setting, such as `N=5, eta=1.0`.
        points: its place on each axis, axis name -> text: `{'N': '5', 'eta': '1.0'}`.
        task: the task's name.
        seed: of the replica.
        scalars: hyper-parameters in which it may differ from others of its pack; complete name -> value.
        kind: digest of everything else that it runs, and so of the packs that it fits into.
    """

    id: str
    label: str = ""
    points: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    seed: int = 0
    scalars: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""

    @property
    def replica(self) -> str:
        """The name of its folder in the pack's folder."""
        return f"cell-{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """What it is, for records; not how it is trained."""
        return {"id": self.id, "label": self.label, "points": dict(self.points), "task": self.task, "seed": self.seed}


@dataclass
class CellStatus:
    """A cell, and how far it is.

    Attributes:
        cell: the cell.
        state: WAITING, STARTING, RUNNING, FINISHED or FAILED.
        failure, reason: why it ended without a result: `diverged` (it would again), `evaluation` or `crashed`; and in
            words.
        folder: where it has finished.
        summary: as in its summary.json, once it has been read: `selection`, `evaluations`, `caveat`, ...
        share: of its updates that are done, 0 to 1.
        last_score: of its last evaluation.
    """

    cell: Cell
    state: str = WAITING
    failure: str = ""
    reason: str = ""
    folder: Path | None = None
    summary: SummaryRecord = field(default_factory=lambda: cast("SummaryRecord", {}))
    share: float = 0.0
    last_score: float | None = None

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
    """A grid as far as it has come.

    Attributes:
        name: of the grid, such as `steps`.
        base: label of the setting that the others are compared with.
        labels: of all settings, in the grid's order.
        axes: axis name -> the texts of its points, in order.
        tasks, seeds: of every setting.
        results, failures, pending: every cell is in one of them; those with results have their summaries.
        gin: the grid's configuration, flattened, as a gin text.
        facts: versions (`versions`: package -> version), `device_names`, `git_commits`, `seconds`, ...
        components: that its cells use, algorithms first.
        inspections: task -> label -> what is inside of that setting's policy of the lowest seed.
    """

    name: str
    base: str
    labels: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[CellStatus, ...]
    failures: tuple[CellStatus, ...] = ()
    pending: tuple[CellStatus, ...] = ()
    gin: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[RegistryEntry[Any], ...] = ()
    inspections: Mapping[str, Mapping[str, InspectionRecord]] = field(default_factory=dict)

    @property
    def caveat(self) -> str:
        """What must stand beside every score, such as `not D4RL`; empty where nothing must."""
        return "; ".join(sorted({str(result.summary["caveat"]) for result in self.results} - {""}))
