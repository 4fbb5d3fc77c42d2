"""The budget of a run: steps, batch, intervals, stopping and selection rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dqlab.config.fields import NonNegativeInt, PositiveInt, check_counts, check_fields
from dqlab.config.registry import Registry, configurable
from dqlab.training.execution.modes import execution_modes
from dqlab.training.model_selection import PAPER, early_stops, offline_rules
from dqlab.training.optimiser import Factor

LearningRateSchedule = Callable[[int, int, int], float]
lr_schedules: Registry[LearningRateSchedule] = Registry(
    "lr_schedule",
    "Factor on the learning rate: (step, steps of the run, steps between evaluations) -> factor.",
    "DiffusionQL.lr_schedule",
)


@lr_schedules.register("constant", source="Diffusion-QL's official code without --lr_decay", cites=PAPER)
def constant(step: int, steps: int, eval_every: int) -> float:
    """No decay."""
    return 1.0


@lr_schedules.register(
    "cosine",
    source="Loshchilov & Hutter 2017; what Diffusion-QL's --lr_decay intends",
    cites=("loshchilov2017sgdr", *PAPER),
)
def cosine_annealing(step: int, steps: int, eval_every: int) -> float:
    """Cosine from 1 to 0 over the run."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@lr_schedules.register("cosine_official", source="Diffusion-QL's official code, --lr_decay as it runs", cites=PAPER)
def cosine_official(step: int, steps: int, eval_every: int, steps_per_epoch: int = 1000) -> float:
    """Cosine over the run's epochs, but advanced by one epoch an evaluation: nearly inert."""
    check_counts("cosine_official", steps_per_epoch=steps_per_epoch)
    epochs = max(steps // steps_per_epoch, 1)
    return 0.5 * (1 + math.cos(math.pi * (step // eval_every) / epochs))


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

    steps: PositiveInt = 2_000_000
    batch_size: PositiveInt = 256
    eval_every: PositiveInt = 50_000
    eval_episodes: PositiveInt = 10
    evaluate_untrained: bool = False
    log_every: PositiveInt = 1000
    checkpoint_seconds: float = 60.0
    early_stop: str = "never"
    offline_rule: str = "kth_lowest"
    top_k: NonNegativeInt = 1
    execution: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        early_stops.get(self.early_stop)
        offline_rules.get(self.offline_rule)
        execution_modes.get(self.execution)

    def factor(self, schedule: str) -> Factor:
        """The learning-rate factor of every step of a phase, over which the schedule runs; by default the whole run."""
        law = lr_schedules.get(schedule)

        def factor(step: int, first: int = 0, last: int | None = None) -> float:
            return law(step - first, min(last or self.steps, self.steps) - first, self.eval_every)

        return factor

    def next_stop(self, step: int) -> int:
        """The next step at which something is logged or evaluated."""
        return min((step // every + 1) * every for every in (self.log_every, self.eval_every, self.steps))
