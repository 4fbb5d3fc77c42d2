"""Critic ensembles: M networks `forward(state, action) -> (B,)`, and how their values are aggregated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dqlab.errors import ConfigError
from dqlab.fields import check_fields, require
from dqlab.networks.activations import Activation
from dqlab.networks.members import Members
from dqlab.networks.mlp import mlp
from dqlab.networks.stacking import Network
from dqlab.noise import NoiseSpec
from dqlab.registry import Registry


class QNetwork(nn.Module):
    """[state, action] -> hidden layers -> Q (B,), or Z numbers (B, Z) where `n_outputs` is more than one.

    Args:
        state_dim, action_dim: S and A.
        hidden_dim, depth: width and number of the hidden layers.
        activation, layer_norm, norm_after, norm_eps: as in `mlp`.
        n_outputs: Z.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden_dim: int = 256,
        depth: int = 3,
        activation: Activation = "mish",
        layer_norm: bool = False,
        n_outputs: int = 1,
        norm_after: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        widths = [state_dim + action_dim] + depth * [hidden_dim] + [n_outputs]
        self.layers = mlp(
            widths, activation=activation, layer_norm=layer_norm, norm_after=norm_after, norm_eps=norm_eps
        )

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q (B,), or (B, Z), of states (B, S) and actions (B, A)."""
        value: Tensor = self.layers(torch.cat([state, action], dim=-1))
        return value.squeeze(-1)


class CriticEnsemble(nn.Module):
    """M independent critics that give Z numbers each: 1, their value, or the atoms of a distribution of returns.

    Subclasses own what is made of the M: what the TD target is, what the critics' loss is, what the actor ascends, and
    what candidates are ranked by. By default: the minimum, squared errors, one of the first two, and the minimum.

    Args:
        members: the M critics.
        alike: they differ in their parameters' values only, so that a GPU may compute them as one.
    """

    def __init__(self, members: list[nn.Module], alike: bool = False) -> None:
        super().__init__()
        self.members = Members(members, alike)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values (M, B) of states (B, S) and actions (B, A)."""
        return self.members.each(state, action)

    def outputs(self, state: Tensor, action: Tensor) -> Tensor:
        """What the loss and the target are made from, (M, B, Z); the mean over Z is `forward`."""
        values: Tensor = self(state, action)
        return values.unsqueeze(-1)

    def noise(self) -> dict[str, NoiseSpec]:
        """The randomness that one `backup` needs."""
        return {}

    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The next state's share (B, Z') of the TD target, from the target critics' outputs (M, B, Z): the minimum."""
        return outputs.amin(dim=0)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The critics' loss, a scalar, of outputs (M, B, Z) against TD targets (B, Z'): summed mean squared errors."""
        return (outputs - target).square().mean(dim=(1, 2)).sum()

    def ascend(self, q: Tensor, coin: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B,) that the actor ascends and those that scale its loss, from q (M, B) and a fair coin.

        The coin (0 or 1) says which of the first two critics is ascended; the other one scales.
        """
        first = (coin == 0).unsqueeze(-1)
        return torch.where(first, q[0], q[1]), torch.where(first, q[1], q[0])

    def rank(self, q: Tensor) -> Tensor:
        """What candidates are ranked by, (...), from values q (M, ...): the minimum."""
        return q.amin(dim=0)


@dataclass(eq=False, repr=False)
class QEnsemble(CriticEnsemble):
    """An ensemble of multilayer perceptrons of one shape; subclasses are dataclasses whose fields gin can set.

    Attributes:
        state_dim, action_dim: S and A.
        n_critics: M.
        hidden_dim, depth: width and number of each member's hidden layers.
        activation: a name from the `activation` registry, or a factory.
        layer_norm: LayerNorm before each activation.
    """

    state_dim: int
    action_dim: int
    n_critics: int = 10
    hidden_dim: int = 256
    depth: int = 3
    activation: Activation = "mish"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("n_critics", "hidden_dim", "depth"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        super().__init__([self.member() for _ in range(self.n_critics)], alike=True)

    def member(self) -> nn.Module:
        """A freshly initialised critic; all differ in their parameters' values only."""
        return self.network()

    def network(self, n_outputs: int = 1) -> QNetwork:
        """A freshly initialised perceptron that gives so many numbers."""
        inputs, shape = (self.state_dim, self.action_dim), (self.hidden_dim, self.depth)
        return QNetwork(*inputs, *shape, self.activation, self.layer_norm, n_outputs)


def ensemble_of(network: Network) -> CriticEnsemble:
    """The ensemble behind a bound network, for its aggregation rules."""
    if not isinstance(network.module, CriticEnsemble):
        raise ConfigError(f"A critic must be a CriticEnsemble, not {type(network.module).__name__}.")
    return network.module


critics: Registry[Callable[..., CriticEnsemble]] = Registry(
    "critic", "The ensemble of Q networks and what is made of its members' values.", "DiffusionQL.critic"
)


@critics.register("twin", source="Fujimoto et al. 2018 (clipped double Q); Diffusion-QL")
@dataclass(eq=False, repr=False)
class TwinCritic(QEnsemble):
    """Two critics; the target uses their minimum, the actor ascends one of them by a fair coin.

    Attributes:
        hidden_dim, depth, activation, layer_norm: the shape of each critic, as in `QEnsemble`.
    """

    n_critics: int = field(default=2, init=False)
