"""IDQL (Hansen-Estruch et al. 2023): implicit Q-learning, a cloned diffusion policy, and a choice among its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dqlab.algorithms.actor_critic import SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, Target, TrainedNetwork, algorithms
from dqlab.algorithms.iql import ImplicitQ
from dqlab.config.fields import NonNegativeFloat, UnitFloat


@algorithms.register(
    "idql", source="Hansen-Estruch et al. 2023, algorithms 1 and 2; its official code", cites=("hansenestruch2023idql",)
)
@dataclass(frozen=True)
class IDQL(ImplicitQ):
    """Implicit diffusion Q-learning: behaviour cloning with a diffusion policy, whose candidates Q and V choose from.

    Attributes:
        selection: how it acts: `argmax` as in the paper's offline evaluation, or `idql_expectile`, `idql_quantile` and
            `idql_exponential`, the implicit policies of the value losses of those names.
        ema_rate: rate of the actor's moving average, which acts.
        weight_decay: the actor's, decoupled (AdamW), a rate per learning rate.
    """

    selection: str | SelectionFactory = "argmax"
    ema_rate: UnitFloat = 0.001
    weight_decay: NonNegativeFloat = 1e-4
    lr_schedule: str = "cosine"
    acting_actor = "actor_ema"
    averages_critics = True

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        trained = super().trained(dims)
        return {**trained, "actor": replace(trained["actor"], weight_decay="weight_decay")}

    def targets(self) -> dict[str, Target]:
        return {"actor_ema": Target("actor", "ema_rate"), **super().targets()}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The policy's own BC loss, a sum over action dimensions (the mean is reported), whatever the critics say."""
        loss, info = self.bc_loss(dims, nets, batch, noise)
        return dims.action * loss, info
