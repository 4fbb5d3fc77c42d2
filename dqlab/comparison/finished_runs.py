"""What is compared: finished runs with one seed each, wherever they were recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dqlab.running import LATER, WITHOUT_EFFECT
from dqlab.tracking.mlflow import LONGEST_VALUE

IDENTITY = ("seeds", "task", "cell", "replicas", "device")
APART = (*(f"Experiment.{name}" for name in IDENTITY), *WITHOUT_EFFECT)
"""Parameters that do not make another configuration: seeds and tasks are compared in other ways, the rest is no part
of what is computed."""
DESCRIBING = ("Grid.", "Report.")
"""Parameters of the grid that a run belongs to."""


@dataclass(frozen=True)
class FinishedRun:
    """One finished run of one seed.

    Attributes:
        name: where it is recorded: a folder or an MLflow run's id.
        label: of the grid's setting that it belongs to, or empty.
        task, seed, caveat, physics: of the run.
        digest: of its data.
        config: its configuration as text, without what makes no difference.
        made_with: versions, commit and device: name -> text.
        scores: selection rule -> D4RL-normalised score.
    """

    name: str
    label: str
    task: str
    seed: int
    caveat: str
    physics: str
    digest: str
    config: Mapping[str, str]
    made_with: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """What there is at one place: finished runs, how many have failed or not finished, and why others cannot be read.

    Attributes:
        runs: finished ones.
        failed, unfinished: numbers of others.
        damaged: a sentence or two on each run, or pack, whose records are damaged.
        gone: folders of reused cells that are not there any more.
    """

    runs: tuple[FinishedRun, ...] = ()
    failed: int = 0
    unfinished: int = 0
    damaged: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @staticmethod
    def all_of(parts: Iterable[Found]) -> Found:
        """The runs of several places; a run that is named twice counts once."""
        parts = list(parts)
        runs = {run.name: run for part in parts for run in part.runs}
        failed, unfinished = sum(part.failed for part in parts), sum(part.unfinished for part in parts)
        damaged = dict.fromkeys(text for part in parts for text in part.damaged)
        gone = dict.fromkeys(path for part in parts for path in part.gone)
        return Found(tuple(runs.values()), failed, unfinished, tuple(damaged), tuple(gone))


def comparable(config: Mapping[str, Any]) -> dict[str, str]:
    """A flat configuration as text, without what makes no difference to a run; what came later, where it is chosen."""
    return {
        name: str(value)[:LONGEST_VALUE]
        for name, value in config.items()
        if name not in APART and not name.startswith(DESCRIBING) and LATER.get(name, ...) != value
    }
