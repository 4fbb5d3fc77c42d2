"""Critic ensembles: M networks `forward(state, action) -> (B,)`, and how their values are aggregated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dqlab.config.fields import NonNegativeFloat, PositiveFloat, PositiveInt, UnitFloat, check_field, check_fields
from dqlab.config.registry import Registry
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation, mlp
from dqlab.networks.stacking import Members, Network
from dqlab.noise import Noise, NoiseSpec, uniform


class QNetwork(nn.Module):
    """[state, action] -> hidden layers -> Q (B,), or Z numbers (B, Z) where `n_outputs` is more than one.

    Args:
        hidden_dim, depth: width and number of the hidden layers.
        n_outputs: Z.
        options: of `mlp`, such as `activation` and `layer_norm`.
    """

    def __init__(
        self, state_dim: int, action_dim: int, hidden_dim: int = 256, depth: int = 3, n_outputs: int = 1, **options: Any
    ) -> None:
        super().__init__()
        self.layers = mlp([state_dim + action_dim, *depth * [hidden_dim], n_outputs], **options)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.layers(torch.cat([state, action], dim=-1)).squeeze(-1)


class CriticEnsemble(nn.Module):
    """M independent critics that give Z numbers each: 1, their value, or the atoms of a distribution of returns.

    Subclasses own what is made of the M: the TD target, the critics' loss, what the actor ascends, and what candidates
    are ranked by. By default: `aggregate`, squared errors, one of the first two, and `aggregate`.

    Args:
        members, alike: the M critics; they differ in their parameters' values only: a GPU may compute them as one.
    """

    def __init__(self, members: list[nn.Module], alike: bool = False) -> None:
        super().__init__()
        self.members = Members(members, alike)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values (M, B) of states (B, S) and actions (B, A)."""
        return self.members.each(state, action)

    def outputs(self, state: Tensor, action: Tensor) -> Tensor:
        """What the loss and the target are made from, (M, B, Z); the mean over Z is `forward`."""
        return self(state, action).unsqueeze(-1)

    def action_gradients(self, state: Tensor, action: Tensor) -> Tensor:
        """Gradients (M, B, A) of each member's values with respect to its action; differentiable themselves."""

        def gradient(member: Callable[..., Tensor], state: Tensor, action: Tensor) -> Tensor:
            return torch.func.grad(lambda action: member(state, action).sum())(action)

        return self.members.map(gradient, state, action)

    def aggregate(self, values: Tensor) -> Tensor:
        """The ensemble's value (...) of its members' values (M, ...): the minimum."""
        return values.amin(dim=0)

    def noise(self) -> dict[str, NoiseSpec]:
        """The randomness that one `backup` needs."""
        return {}

    def backup(self, outputs: Tensor, noise: Noise) -> Tensor:
        """The next state's share (B, Z') of the TD target, from the target critics' outputs (M, B, Z)."""
        return self.aggregate(outputs)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The critics' loss, a scalar, of outputs (M, B, Z) against TD targets (B, Z'): summed mean squared errors."""
        return (outputs - target).square().mean(dim=(1, 2)).sum()

    def actor_objective(self, q: Tensor, critic_index: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B,) that the actor ascends and those that scale its loss, from q (M, B).

        `critic_index` (0 or 1, a fair coin) says which of the first two critics is ascended; the other one scales.
        """
        first = (critic_index == 0).unsqueeze(-1)
        return torch.where(first, q[0], q[1]), torch.where(first, q[1], q[0])

    def ranking_value(self, q: Tensor) -> Tensor:
        """What candidates are ranked by, (...), from values q (M, ...)."""
        return self.aggregate(q)


@dataclass(eq=False, repr=False)
class QEnsemble(CriticEnsemble):
    """An ensemble of multilayer perceptrons of one shape; subclasses are dataclasses whose fields gin can set.

    Attributes:
        n_critics: M.
        hidden_dim, depth: width and number of each member's hidden layers.
        layer_norm: LayerNorm before each activation.
        norm_after, norm_eps: LayerNorm after each activation instead; added to its variance. FQL's code: True, 1e-6.
    """

    state_dim: int
    action_dim: int
    n_critics: PositiveInt = 10
    hidden_dim: PositiveInt = 256
    depth: PositiveInt = 3
    activation: Activation = "mish"
    layer_norm: bool = False
    norm_after: bool = False
    norm_eps: PositiveFloat = 1e-5
    least: ClassVar[int] = 1  # critics below which there is no such ensemble

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.n_critics >= self.least, self, "n_critics", f"at least {self.least}")
        super().__init__([self.member() for _ in range(self.n_critics)], alike=True)

    def member(self, n_outputs: int = 1) -> QNetwork:
        """A freshly initialised critic that gives so many numbers; all differ in their parameters' values only."""
        options = {name: getattr(self, name) for name in ("activation", "layer_norm", "norm_after", "norm_eps")}
        return QNetwork(self.state_dim, self.action_dim, self.hidden_dim, self.depth, n_outputs, **options)


def ensemble_of(network: Network) -> CriticEnsemble:
    """The ensemble behind a bound network, for its aggregation rules."""
    if not isinstance(network.module, CriticEnsemble):
        raise ConfigError(f"A critic must be a CriticEnsemble, not {type(network.module).__name__}.")
    return network.module


critics: Registry[Callable[..., CriticEnsemble]] = Registry(
    "critic", "The ensemble of Q networks and what is made of its members' values.", "DiffusionQL.critic"
)


@critics.register(
    "twin",
    source="Fujimoto et al. 2018 (clipped double Q); Diffusion-QL",
    cites=("fujimoto2018addressing", "wang2023diffusion"),
)
@dataclass(eq=False, repr=False)
class TwinCritic(QEnsemble):
    """Two critics; the target uses their minimum, the actor ascends one of them by a fair coin."""

    n_critics: int = field(default=2, init=False)


class AggregatedEnsemble(QEnsemble):
    """The actor ascends the aggregated value, too."""

    def actor_objective(self, q: Tensor, critic_index: Tensor) -> tuple[Tensor, Tensor]:
        value = self.aggregate(q)
        return value, value


@critics.register("ensemble_min", source="An et al. 2021 (SAC-N), section 3", cites=("an2021uncertainty",))
class MinimumEnsemble(AggregatedEnsemble):
    """The minimum of M critics, for the target, the actor and the ranking.

    Attributes:
        n_critics: M; the paper has 10 to 500, a task.
    """


@critics.register("ensemble_mean", source="Park et al. 2025 (FQL)", cites=("park2025flow",))
@dataclass(eq=False, repr=False)
class MeanEnsemble(AggregatedEnsemble):
    """The mean of M critics, for the target, the actor and the ranking."""

    n_critics: int = 2

    def aggregate(self, values: Tensor) -> Tensor:
        return values.mean(dim=0)


@critics.register(
    "ensemble_lcb", source="Ghasemipour et al. 2022 (MSG); one target for all members", cites=("ghasemipour2022why",)
)
@dataclass(eq=False, repr=False)
class LowerBoundEnsemble(AggregatedEnsemble):
    """A lower confidence bound: the mean over critics minus beta times their standard deviation (divisor M).

    Here the bound is also the target of all members; MSG trains each on its own and takes the bound for the actor only.

    Attributes:
        n_critics: M, at least 2; the paper has 64.
        beta: standard deviations below the mean; the paper has 4 and 8.
    """

    beta: NonNegativeFloat = 4.0
    least = 2

    def aggregate(self, values: Tensor) -> Tensor:
        return values.mean(dim=0) - self.beta * values.std(dim=0, correction=0)


@critics.register(
    "soft_clipped",
    source="Fujimoto et al. 2019 (BCQ), section 4; Kumar et al. 2019 (BEAR)",
    cites=("fujimoto2019off", "kumar2019stabilizing"),
)
@dataclass(eq=False, repr=False)
class SoftClippedEnsemble(QEnsemble):
    """Soft clipped double Q: weight * minimum + (1 - weight) * maximum over the critics.

    Attributes:
        n_critics: M, at least 2; the actor ascends one of the first two.
        weight: lambda, of the minimum; 1 is clipped double Q.
    """

    n_critics: int = 2
    weight: UnitFloat = 0.75
    least = 2

    def aggregate(self, values: Tensor) -> Tensor:
        return self.weight * values.amin(dim=0) + (1 - self.weight) * values.amax(dim=0)


@critics.register("redq", source="Chen et al. 2021 (REDQ), algorithm 1", cites=("chen2021randomized",))
@dataclass(eq=False, repr=False)
class REDQ(MeanEnsemble):
    """The target uses the minimum over a random subset of the critics, drawn anew at every update.

    The actor ascends the mean over all critics, and candidates are ranked by it.

    Attributes:
        n_subset: m, critics in the subset.
    """

    n_critics: PositiveInt = 10
    n_subset: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = f"between 1 and {self.n_critics} (n_critics)"
        check_field(1 <= self.n_subset <= self.n_critics, self, "n_subset", wanted)

    def noise(self) -> dict[str, NoiseSpec]:
        """Uniform numbers (M,), the highest m of which are the subset."""
        return {"subset": uniform(self.n_critics)}

    def backup(self, outputs: Tensor, noise: Noise) -> Tensor:
        """The minimum (B, 1) over the subset, of outputs (M, B, 1)."""
        return outputs.index_select(0, noise["subset"].topk(self.n_subset).indices).amin(dim=0)


@critics.register("tqc", source="Kuznetsov et al. 2020 (TQC), section 3", cites=("kuznetsov2020controlling",))
@dataclass(eq=False, repr=False)
class TQC(MeanEnsemble):
    """Truncated quantile critics: the target is the pooled quantiles of all critics without the highest ones.

    The actor ascends the mean over all quantiles of all critics, and candidates are ranked by it.

    Attributes:
        n_quantiles: Z, quantiles that each critic predicts, at the levels (i + 1/2) / Z.
        n_dropped: d, quantiles dropped for each critic, so that Z' = M * (Z - d) are left.
    """

    n_critics: int = 5
    n_quantiles: int = 25
    n_dropped: int = 2

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.n_quantiles >= 2, self, "n_quantiles", "at least 2")
        super().__post_init__()
        wanted = f"between 0 and {self.n_quantiles - 1} (n_quantiles - 1)"
        check_field(0 <= self.n_dropped < self.n_quantiles, self, "n_dropped", wanted)

    def member(self, n_outputs: int = 1) -> QNetwork:
        return super().member(n_outputs * self.n_quantiles)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.outputs(state, action).mean(dim=-1)

    def outputs(self, state: Tensor, action: Tensor) -> Tensor:
        return self.members.each(state, action)

    def backup(self, outputs: Tensor, noise: Noise) -> Tensor:
        """The lowest Z' = M * (Z - d) of the pooled quantiles, (B, Z') in ascending order, of outputs (M, B, Z)."""
        pooled = outputs.transpose(0, 1).flatten(start_dim=1)
        return pooled.sort(dim=-1).values[:, : self.n_critics * (self.n_quantiles - self.n_dropped)]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Quantile Huber losses (Dabney et al. 2018, eq. 9 and 10, kappa = 1): the sum over critics of their means.

        Means are over rows, i and j of |tau_i - 1(u < 0)| * L_1(u), u = target_j - quantile_i, tau_i = (i + 1/2) / Z.
        """
        levels = (torch.arange(self.n_quantiles, device=outputs.device, dtype=outputs.dtype) + 0.5) / self.n_quantiles
        u = target.unsqueeze(-2) - outputs.unsqueeze(-1)
        weight, size = (levels.unsqueeze(-1) - (u < 0).to(u.dtype)).abs(), u.abs()
        huber = torch.where(size <= 1, 0.5 * size.square(), size - 0.5)
        return (weight * huber).mean(dim=(-2, -1)).mean(dim=1).sum()
