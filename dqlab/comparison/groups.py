"""Runs that differ in their seed only are a group; a group on a task, on one data set, is what gets an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from dqlab.comparison.finished_runs import FinishedRun

UNSET = "unset"
SHORT = 3


@dataclass(frozen=True)
class Group:
    """Runs of one configuration: a letter for tables, a name, and the runs, on whatever tasks."""

    letter: str
    name: str
    runs: tuple[FinishedRun, ...]

    @property
    def config(self) -> Mapping[str, str]:
        """Of all of its runs."""
        return self.runs[0].config


@dataclass(frozen=True)
class Row:
    """A group on one task and one data set: runs of different seeds, in the order of seeds."""

    group: Group
    task: str
    digest: str
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(run.seed for run in self.runs)


def grouped(runs: Iterable[FinishedRun]) -> tuple[Group, ...]:
    """Groups in the order in which they are met."""
    found: dict[object, list[FinishedRun]] = {}
    for run in runs:
        found.setdefault((frozenset(run.config.items()), run.physics), []).append(run)
    different = differing([runs[0].config for runs in found.values()])
    return tuple(
        Group(_letter(place), _name(runs, different), tuple(runs)) for place, runs in enumerate(found.values())
    )


def differing(configs: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
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


def rows_of(groups: Iterable[Group]) -> tuple[Row, ...]:
    """Each group on each task and data set; of two runs with the same seed the first one counts."""
    rows = []
    for group in groups:
        kinds = dict.fromkeys((run.task, run.digest) for run in group.runs)
        for task, digest in kinds:
            runs = [run for run in reversed(group.runs) if (run.task, run.digest) == (task, digest)]
            by_seed = {run.seed: run for run in runs}
            rows.append(Row(group, task, digest, tuple(by_seed[seed] for seed in sorted(by_seed))))
    return tuple(rows)
