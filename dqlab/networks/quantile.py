"""Distributional critics: quantiles of the return, truncated where several critics are pooled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dqlab.fields import check_fields, require
from dqlab.networks.critics import critics
from dqlab.networks.ensembles import MeanEnsemble


@critics.register("tqc", source="Kuznetsov et al. 2020 (TQC), section 3")
@dataclass(eq=False, repr=False)
class TQC(MeanEnsemble):
    """Truncated quantile critics: the target is the pooled quantiles of all critics without the highest ones.

    The actor ascends the mean over all quantiles of all critics, and candidates are ranked by it.

    Attributes:
        n_critics: M.
        n_quantiles: Z, quantiles that each critic predicts, at the levels (i + 1/2) / Z.
        n_dropped: d, quantiles dropped for each critic, so that Z' = M * (Z - d) are left.
        hidden_dim, depth, activation, layer_norm, norm_after, norm_eps: the shape of each critic, as in `MeanEnsemble`.
    """

    n_critics: int = 5
    n_quantiles: int = 25
    n_dropped: int = 2

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.n_quantiles >= 2, self, "n_quantiles", "at least 2")
        super().__post_init__()
        wanted = f"between 0 and {self.n_quantiles - 1} (n_quantiles - 1)"
        require(0 <= self.n_dropped < self.n_quantiles, self, "n_dropped", wanted)

    def member(self) -> nn.Module:
        """A freshly initialised critic with Z outputs."""
        return self.network(self.n_quantiles)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Each critic's mean over its quantiles, (M, B)."""
        return self.outputs(state, action).mean(dim=-1)

    def outputs(self, state: Tensor, action: Tensor) -> Tensor:
        """Quantiles (M, B, Z) of states (B, S) and actions (B, A)."""
        return self.members.each(state, action)

    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The lowest Z' = M * (Z - d) of the pooled quantiles, (B, Z') in ascending order, of outputs (M, B, Z)."""
        pooled = outputs.transpose(0, 1).flatten(start_dim=1)
        kept = self.n_critics * (self.n_quantiles - self.n_dropped)
        return pooled.sort(dim=-1).values[:, :kept]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Quantile Huber losses, a scalar: the sum over critics of the means, of outputs (M, B, Z), target (B, Z')."""
        return quantile_huber(outputs, target).mean(dim=1).sum()


def quantile_huber(quantiles: Tensor, target: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile regression with the Huber loss (Dabney et al. 2018, equations 9 and 10).

    rho(u) = |tau_i - 1(u < 0)| * L_kappa(u) / kappa with u = target_j - quantile_i and tau_i = (i + 1/2) / Z; the mean
    over i and j. (Dabney et al. sum over i.)

    Args:
        quantiles: predictions (..., Z), in the order of their levels.
        target: samples (..., Z'), in any order, broadcast against the predictions' leading axes.
        kappa: where the Huber loss turns from a square into a line, in units of value.

    Returns:
        Losses (...).
    """
    count = quantiles.shape[-1]
    levels = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    u = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    weight = (levels.unsqueeze(-1) - (u < 0).to(u.dtype)).abs()
    size = u.abs()
    huber = torch.where(size <= kappa, 0.5 * size.square(), kappa * (size - 0.5 * kappa))
    return (weight * huber / kappa).mean(dim=(-2, -1))
