"""Who watches a run: passes on what the loop tells, to the display, to run.json, and as events to whoever listens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dqlab.experiment import Experiment
from dqlab.run_folder import RunFolder
from dqlab.tracking.display import Display
from dqlab.training.execution import Mode, name_of
from dqlab.training.model_selection import Evaluated

Tell = Callable[[Mapping[str, Any]], None]
"""Told of events, each a dictionary with its name as `event`."""


def nobody(event: Mapping[str, Any]) -> None:
    """Whom events are told to where nobody listens."""


@dataclass(frozen=True)
class Watch:
    """Passes on what a loop tells: to the display, to a listener, and how it executes to run.json for a resume.

    Attributes:
        tell: told `progress` (`updates_per_second`), `evaluated` (`scores`: replica -> mean score), `saved`, each with
            its `step`, and `cell_failed` (`replica`, `reason`).
    """

    display: Display
    folder: RunFolder
    experiment: Experiment
    tell: Tell = nobody

    def executes(self, mode: Mode) -> None:
        """Say how updates are executed, and why."""
        name, configured = name_of(mode), self.experiment.plan.execution
        self.folder.write_facts(execution=name, execution_configured=configured, execution_reason=mode.reason)
        self.display.say(f"execution: {name} ({mode.reason})")
        self.display.say(f"{self.experiment.about_threads}; matrix products: {self.experiment.precision}")
        if mode.preparation:
            self.display.say(mode.preparation)

    def logged(self, step: int, metrics: dict[str, float]) -> None:
        """Means of the losses."""
        self.display.logged(step, metrics)
        self.tell({"event": "progress", "step": step, "updates_per_second": metrics["updates_per_second"]})

    def evaluated(self, step: int, evaluations: dict[str, Evaluated]) -> None:
        """An evaluation."""
        known = [(replica, evaluations.get(replica.name)) for replica in self.experiment.the_replicas]
        self.display.evaluated(step, {replica.title: evaluated for replica, evaluated in known if evaluated})
        scores = {name: evaluated.score_mean for name, evaluated in evaluations.items()}
        self.tell({"event": "evaluated", "step": step, "scores": scores})

    def evaluation_failed(self, what: str) -> None:
        """An evaluation without a score."""
        print(f"dqlab: warning: {what}", file=sys.stderr)

    def saved(self, step: int) -> None:
        """A checkpoint."""
        self.tell({"event": "saved", "step": step})

    def failed(self, name: str, reason: str) -> None:
        """A replica's failure."""
        self.display.say(f"failed: {reason}")
        self.tell({"event": "cell_failed", "replica": name, "reason": reason})
