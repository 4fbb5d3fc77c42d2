"""The budget of a run: steps, batch, intervals, stopping and selection rules."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.fields import check_fields, require
from dqlab.registry import configurable
from dqlab.training.execution import execution_modes
from dqlab.training.learning_rate import lr_schedules
from dqlab.training.model_selection import early_stops, offline_rules
from dqlab.training.pack import Factor


@configurable("training")
@dataclass(frozen=True)
class Training:
    """The budget of a run, and what happens along the way.

    Attributes:
        steps: updates in all (paper: 2000 epochs of 1000 for locomotion).
        batch_size: transitions an update.
        eval_every: updates between two evaluations (paper: 50 epochs).
        eval_episodes: episodes an evaluation, of each replica.
        evaluate_untrained: evaluate before the first update too; no selection rule considers it.
        log_every: updates over which logged losses are averaged (fewer where an evaluation comes first).
        checkpoint_seconds: time between two full checkpoints, at most one a log; every evaluation writes one too.
        early_stop, offline_rule: names from their registries.
        top_k: the k of offline selection (paper: per task).
        execution: a name from the `execution` registry; `auto` takes the fastest that pays for this budget.
    """

    steps: int = 2_000_000
    batch_size: int = 256
    eval_every: int = 50_000
    eval_episodes: int = 10
    evaluate_untrained: bool = False
    log_every: int = 1000
    checkpoint_seconds: float = 60.0
    early_stop: str = "never"
    offline_rule: str = "kth_lowest"
    top_k: int = 1
    execution: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "batch_size", "eval_every", "eval_episodes", "log_every"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.top_k >= 0, self, "top_k", "at least 0")
        early_stops.get(self.early_stop)
        offline_rules.get(self.offline_rule)
        execution_modes.get(self.execution)

    def factor(self, schedule: str) -> Factor:
        """The learning-rate factor of every step."""
        law = lr_schedules.get(schedule)
        return lambda step: law(step, self.steps, self.eval_every)

    def try_rules(self) -> None:
        """Call what is called after evaluations once, so that its mistakes, and its parameters, show at the start."""
        early_stops.get(self.early_stop)([1.0])
        offline_rules.get(self.offline_rule)([1.0], self.top_k)

    def next_stop(self, step: int) -> int:
        """The next step at which something is logged or evaluated."""
        return min((step // every + 1) * every for every in (self.log_every, self.eval_every, self.steps))
