"""The average velocity of a flow: one call of a network carries noise to an action, and no teacher is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, UnitFloat
from dqlab.networks import denoisers
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, normal, uniform
from dqlab.policies.base import Dims, Policy, policies


@policies.register(
    "mean_flow",
    source="Geng et al. 2025 (the MeanFlow identity); Wang et al. 2026 (MeanFlowQL): residual form, fixed end",
    cites=("geng2025mean", "wang2026one"),
)
@dataclass(frozen=True)
class MeanFlowPolicy(Policy):
    """Actions x_0 + u(x_0, 0, 1) from noise x_0, by the average velocity u of a flow that is trained as one network.

    Between the times t and e the flow moves a point by (e - t) u(x_t, t, e). Along the flow's own velocity v,
    u = v + (e - t) du/dt: u is fitted to the right-hand side, through which no gradient flows, with x_1 - x_0 for v.
    Noise has the time 0 and actions 1, as in `RectifiedFlowPolicy`; in the papers it is the other way round.

    Attributes:
        denoiser: a name from the `denoiser` registry, or the component itself.
        residual: the network gives x + u, so that its output for noise is the action; else u.
        fixed_end: e is always 1, and the network sees t alone (MeanFlowQL). If not, e is drawn too (MeanFlow), and the
            network gets it as one more number beside the state.
        instant_share: where e is drawn, the share of samples with e = t, which fit u to v itself.
        n_times: times are drawn from 0, 1 / n_times, ...; 0 for all between 0 and 1.
        time_scale: the network sees t * time_scale; large ones make du/dt steep.
        adaptive_power, adaptive_floor: p and c of the weight (error + c)^-p of each squared error.
        target_bound: largest |x + u| that u is fitted to, in units of the largest action.
    """

    denoiser: str | Callable[..., nn.Module] = "mlp"
    residual: bool = True
    fixed_end: bool = True
    instant_share: UnitFloat = 0.75
    n_times: NonNegativeInt = 0
    time_scale: PositiveFloat = 1.0
    adaptive_power: NonNegativeFloat = 0.2
    adaptive_floor: PositiveFloat = 1e-4
    target_bound: PositiveFloat = 5.0

    def build(self, dims: Dims) -> nn.Module:
        """A freshly initialised denoiser, whose states are one number longer where the end is drawn."""
        return denoisers.choose(self.denoiser)(dims.state + (not self.fixed_end), dims.action)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Uniform `t` (B,) and points `start` (B, A) at time 0; `end` and `instant` (B,) where the end is drawn."""
        ends = {} if self.fixed_end else {"end": uniform(batch), "instant": uniform(batch)}
        return {"t": uniform(batch), "start": normal(batch, dims.action), **ends}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors (B,) of u, means over action dimensions, each times its weight."""
        t, end = self._times(noise)
        velocity = action - noise["start"]
        x = noise["start"] + t.unsqueeze(-1) * velocity

        def average(x: Tensor, t: Tensor) -> Tensor:
            return self.average_velocity(network, state, x, t, end)

        u, slope = directional_derivative(average, (x, t), (velocity, torch.ones_like(t)))
        bound = self.target_bound * dims.max_action
        reached = (x + velocity + (end - t).unsqueeze(-1) * slope).clamp(-bound, bound)
        errors = (x + u - reached.detach()).square().mean(dim=-1)
        return errors * (errors.detach() + self.adaptive_floor) ** -self.adaptive_power

    def average_velocity(self, network: Network, state: Tensor, x: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """u (B, A) from the times t (B,) to `end` (B,), at points x (B, A)."""
        seen = state if self.fixed_end else torch.cat([state, end.unsqueeze(-1)], dim=-1)
        out = network(x, t * self.time_scale, seen)
        return out - x if self.residual else out

    def _times(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Where intervals begin and end, (B,) each."""
        count = self.n_times
        drawn = [
            (noise[name] * count).floor() / count if count else noise[name] for name in ("t", "end") if name in noise
        ]
        if self.fixed_end:
            return drawn[0], torch.ones_like(drawn[0])
        t, end = torch.minimum(*drawn), torch.maximum(*drawn)
        return t, torch.where(noise["instant"] < self.instant_share, t, end)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The point `start` (B, A) at time 0."""
        return {"start": normal(batch, dims.action)}

    def unbounded_action(self, network: Network, state: Tensor, noise: Noise) -> Tensor:
        """x_0 + u(x_0, 0, 1), (B, A), which may lie outside of the action range. `noise` is that of `sample`."""
        start = noise["start"]
        begin = torch.zeros_like(start[:, 0])
        return start + self.average_velocity(network, state, start, begin, torch.ones_like(begin))

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) in one call of the network, clamped to the action range."""
        return self.unbounded_action(network, state, noise).clamp(-dims.max_action, dims.max_action)


def directional_derivative(
    function: Callable[..., Tensor], point: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """A function's value, and its derivative in a direction, through which no gradient flows.

    By two reverse passes: the pull-back is linear in its cotangent, and its own pull-back is the derivative. Forward
    mode gives the same for PyTorch's operations, but stops at an `autograd.Function` without a rule for it, as
    dqlab's Mish is; compiled, where nothing of the first pass is left but what the second one needs, it is no faster.
    """
    value, pull = torch.func.vjp(function, *point)[:2]
    pull_back = torch.func.vjp(pull, torch.zeros_like(value))[1]
    derivative: Tensor = pull_back(direction)[0]
    return value, derivative.detach()
