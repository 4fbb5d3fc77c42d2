"""Cells: one run each of a grid, a setting on a task with a seed, known by a digest of what it really runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


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
