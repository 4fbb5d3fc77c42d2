"""What a grid has given so far: results, failures, and what is still to come. Statistics and reports read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dqlab.ablation.cells import Cell
from dqlab.run_folder import RULES as RULES

if TYPE_CHECKING:
    from dqlab.records import SummaryRecord


@dataclass(frozen=True)
class Result:
    """A finished cell and its summary, as in summary.json: `selection`, `evaluations`, `caveat`, ..."""

    cell: Cell
    summary: SummaryRecord

    def score(self, rule: str) -> float:
        """The D4RL-normalised score by a selection rule."""
        return float(self.summary["selection"][rule]["score_mean"])


@dataclass(frozen=True)
class Failure:
    """A cell that ended without a result, and why: `kind` is `diverged` (it would again), `evaluation` or `crashed`."""

    cell: Cell
    kind: str
    reason: str


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
    """

    name: str
    base: str
    labels: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[Result, ...]
    failures: tuple[Failure, ...] = ()
    pending: tuple[Cell, ...] = ()
    gin: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def caveat(self) -> str:
        """What must stand beside every score, such as `not D4RL`; empty where nothing must."""
        return "; ".join(sorted({str(result.summary["caveat"]) for result in self.results} - {""}))
