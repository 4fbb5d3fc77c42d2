"""Learning-rate schedules: the factor on the base rate at a step, as a function of the run's length."""

from __future__ import annotations

import math
from collections.abc import Callable

from dqlab.fields import check_counts
from dqlab.registry import Registry

LearningRateSchedule = Callable[[int, int, int], float]

lr_schedules: Registry[LearningRateSchedule] = Registry(
    "lr_schedule",
    "Factor on the learning rate: (step, steps of the run, steps between evaluations) -> factor.",
    "DiffusionQL.lr_schedule",
)


@lr_schedules.register("constant", source="Diffusion-QL's official code without --lr_decay")
def constant(step: int, steps: int, eval_every: int) -> float:
    """No decay."""
    return 1.0


@lr_schedules.register("cosine", source="Loshchilov & Hutter 2017; what Diffusion-QL's --lr_decay intends")
def cosine_annealing(step: int, steps: int, eval_every: int) -> float:
    """Cosine from 1 to 0 over the run."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@lr_schedules.register("cosine_official", source="Diffusion-QL's official code, --lr_decay as it runs")
def cosine_official(step: int, steps: int, eval_every: int, steps_per_epoch: int = 1000) -> float:
    """Cosine over the run's epochs, but advanced by one epoch an evaluation: nearly inert."""
    check_counts("cosine_official", steps_per_epoch=steps_per_epoch)
    epochs = max(steps // steps_per_epoch, 1)
    return 0.5 * (1 + math.cos(math.pi * (step // eval_every) / epochs))
