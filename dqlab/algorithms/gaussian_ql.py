"""The paper's losses with a unimodal policy: what Diffusion-QL is compared with in its ablation of the policy class."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.algorithms.actor_critic import PolicyFactory
from dqlab.algorithms.base import Target, algorithms
from dqlab.algorithms.diffusion_ql import ClonedAscent


@algorithms.register(
    "gaussian_ql", source="Wang, Hunt, Zhou 2022, eq. 3 with a Gaussian; section 5", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class GaussianQL(ClonedAscent):
    """Maximum likelihood plus ascent of a learned Q with a Gaussian policy, whose mode acts: L = -log pi + eta * L_q.

    The next action is a sample of the actor's moving average, as in Diffusion-QL, which moves at every step.
    """

    policy: str | PolicyFactory = "gaussian"
    next_actor = "actor_target"

    def targets(self) -> dict[str, Target]:
        return {"actor_target": Target("actor", "tau"), **super().targets()}
