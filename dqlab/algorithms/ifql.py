"""IFQL (Park, Li, Levine 2025): IDQL with a flow, as the code of Flow Q-learning has it beside its own method."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.algorithms.actor_critic import CriticFactory, PolicyFactory, SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, algorithms
from dqlab.algorithms.iql import ImplicitQ


@algorithms.register(
    "ifql", source="Park, Li, Levine 2025, section 5 (IFQL); its code", cites=("park2025flow", "hansenestruch2023idql")
)
@dataclass(frozen=True)
class IFQL(ImplicitQ):
    """Implicit flow Q-learning: behaviour cloning with a flow, the best of whose candidates by the critics is taken.

    Beside `idql`, networks are updated by the losses before the update, no actor is averaged, and the online critics
    choose; their targets are an update behind.
    """

    policy: str | PolicyFactory = "rectified_flow"
    critic: str | CriticFactory = "ensemble_min"
    selection: str | SelectionFactory = "argmax"
    joint_update: bool = True
    ranking_critic = "critic"

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        return self.bc_loss(dims, nets, batch, noise)
