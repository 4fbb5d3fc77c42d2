"""What a grid has given so far: results, failures, and what is still to come. Statistics and reports read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqlab.tracking.records import SummaryRecord


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        id: hexadecimal digest of what it runs; equal in every grid that has the same cell.
        label: of its setting, such as `N=5, eta=1.0`.
        points: its place on each axis, axis name -> text: `{'N': '5', 'eta': '1.0'}`.
        task: the task's name.
        seed: of the replica.
    """

    id: str
    label: str = ""
    points: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    seed: int = 0

    @property
    def replica(self) -> str:
        """The name of its folder in the pack's folder."""
        return f"cell-{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """All fields, for records."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """A finished cell and its summary, as in summary.json: `selection`, `evaluations`, `caveat`, ..."""

    cell: Cell
    summary: SummaryRecord

    def score(self, rule: str) -> float:
        """The D4RL-normalised score by a selection rule."""
        return float(self.summary["selection"][rule]["score_mean"])


@dataclass(frozen=True)
class FailedCell:
    """A cell that ended without a result, and why: `kind` is `diverged` (it would again), `evaluation` or `crashed`."""

    cell: Cell
    kind: str
    reason: str


@dataclass(frozen=True)
class UsedComponent:
    """A component that some cell of a grid uses: its name, its source, and the keys of the works that it cites."""

    name: str
    source: str = ""
    cites: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridResults:
    """A grid as far as it has come.

    Attributes:
        name: of the grid, such as `steps`.
        base: label of the setting that the others are compared with.
        labels: of all settings, in the grid's order.
        axes: axis name -> the texts of its points, in order.
        tasks, seeds: of every setting.
        results, failures, pending: every cell is in one of them.
        gin: the grid's configuration, flattened, as a gin text.
        facts: versions (`versions`: package -> version), `device_names`, `git_commits`, `started`, `seconds`, ...
        components: that its cells use, algorithms first.
        known_tasks: names of all tasks that there are, in this grid or not.
    """

    name: str
    base: str
    labels: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[Result, ...]
    failures: tuple[FailedCell, ...] = ()
    pending: tuple[Cell, ...] = ()
    gin: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[UsedComponent, ...] = ()
    known_tasks: tuple[str, ...] = ()

    @property
    def caveat(self) -> str:
        """What must stand beside every score, such as `not D4RL`; empty where nothing must."""
        return "; ".join(sorted({str(result.summary["caveat"]) for result in self.results} - {""}))
