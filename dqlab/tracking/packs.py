"""A pack's folder, as its MLflow run shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dqlab.replica import replicas_of
from dqlab.tracking.cells import CellFolder
from dqlab.tracking.folders import run_facts
from dqlab.tracking.mlflow import run_tags


@dataclass(frozen=True)
class PackFolder:
    """What run.json says of a pack.

    Attributes:
        path: the folder.
        title: its run's name.
        cells: by the names of their folders.
        tags: that its run and its cells' have in common.
        shared: parameters that all of its cells have in common.
    """

    path: Path
    title: str
    cells: Mapping[str, CellFolder]
    tags: Mapping[str, str]
    shared: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> PackFolder:
        """A folder's pack.

        Raises:
            RunError: it is no pack's folder, or damaged.
        """
        facts = run_facts(path)
        task, replicas = facts["task"], replicas_of(facts)
        cells = {each.name: CellFolder(path / each.name, each.as_dict(), task) for each in replicas}
        return cls(path, _title(path.name, cells), cells, run_tags(facts), _shared(cells))

    @property
    def began(self) -> float:
        """When its first cell began, in seconds; 0 where nothing shows it."""
        return min((cell.began for cell in self.cells.values() if cell.began), default=0.0)


def _title(name: str, cells: Mapping[str, CellFolder]) -> str:
    """Labels of its cells, as far as they are few."""
    labels = list(dict.fromkeys(cell.label for cell in cells.values()))
    return f"pack {name[:8]}: " + "; ".join(labels[:3]) + ("; ..." if len(labels) > 3 else "")


def _shared(cells: Mapping[str, CellFolder]) -> dict[str, str]:
    first, *others = (cell.parameters for cell in cells.values())
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
