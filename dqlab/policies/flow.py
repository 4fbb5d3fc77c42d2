"""Flow policies: an ordinary differential equation that carries noise to actions along straight lines.

Rectified flows, a one-step network distilled from one, the average velocity of a flow, and adjoint matching.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, UnitFloat
from dqlab.networks import denoisers
from dqlab.networks.denoiser import prepared_denoiser
from dqlab.networks.stacking import Network, pull_back
from dqlab.noise import Noise, NoiseSpec, normal, uniform
from dqlab.policies.base import Dims, Policy, add_prefix, policies, strip_prefix


@policies.register(
    "rectified_flow",
    source="Liu et al. 2023, eq. 1; Lipman et al. 2023, eq. 23 (sigma_min = 0)",
    cites=("liu2023flow", "lipman2023flow"),
)
@dataclass(frozen=True)
class RectifiedFlowPolicy(Policy):
    """Actions by integrating a velocity from noise (t = 0) to the action (t = 1), in Euler steps.

    Attributes:
        denoiser: a name from the `denoiser` registry, or the component itself; here it predicts the velocity.
        n_steps: Euler steps of a sample.
        time_scale: the network sees t * time_scale, so that its time embedding resolves times between 0 and 1.
    """

    denoiser: str | Callable[..., nn.Module] = "mlp"
    n_steps: PositiveInt = 10
    time_scale: PositiveFloat = 100.0

    def build(self, dims: Dims) -> nn.Module:
        return denoisers.choose(self.denoiser)(dims.state, dims.action)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Uniform times `t` (B,) and the points `start` (B, A) at t = 0."""
        return {"t": uniform(batch), "start": normal(batch, dims.action)}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors (B,) of the velocity x_1 - x_0 at x_t = (1 - t) x_0 + t x_1, means over action dimensions."""
        velocity = action - noise["start"]
        x = noise["start"] + noise["t"].unsqueeze(-1) * velocity
        return (network(x, noise["t"] * self.time_scale, state) - velocity).square().mean(dim=-1)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {"start": normal(batch, dims.action)}

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A): the clamped end points of Euler's method; differentiable through all steps."""
        velocity, x = self.velocity(network, state, self.n_steps), noise["start"]
        for step in range(self.n_steps):
            x = x + velocity(x, step) / self.n_steps
        return x.clamp(-dims.max_action, dims.max_action)

    def velocity(self, network: Network, state: Tensor, count: int) -> Callable[[Tensor, int], Tensor]:
        """`(x (B, A), step) -> velocity (B, A)` at time step / n_steps, for the first `count` steps."""
        steps = torch.arange(count, device=state.device, dtype=state.dtype)
        return prepared_denoiser(network, state, steps * (self.time_scale / self.n_steps))


@policies.register(
    "one_step_flow", source="Park, Li, Levine 2025 (Flow Q-learning), algorithm 1", cites=("park2025flow",)
)
@dataclass(frozen=True)
class OneStepFlowPolicy(RectifiedFlowPolicy):
    """Actions in one step from noise, distilled from a rectified flow that is trained beside it.

    Attributes:
        denoiser: a name from the `denoiser` registry, or the component itself, for the flow's velocity.
        one_step: likewise, for the network from noise to action; it is called with t = 0.
        n_steps, time_scale: the flow's, as in `RectifiedFlowPolicy`.
        alpha: weight of the distillation in `losses`; it trains a network of its own, so with Adam it changes next to
            nothing in behaviour cloning. Flow Q-learning has another one, which weighs distillation against Q.
    """

    one_step: str | Callable[..., nn.Module] = "mlp"
    alpha: NonNegativeFloat = 1.0

    def build(self, dims: Dims) -> nn.Module:
        flow = super().build(dims)
        return nn.ModuleDict({"flow": flow, "one_step": denoisers.choose(self.one_step)(dims.state, dims.action)})

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """`flow_*` for the flow's losses, `distill_*` for the distillation's."""
        flow, distilled = self.flow_noise(dims, batch), self.sample_noise(dims, batch)
        return {**add_prefix("flow", flow), **add_prefix("distill", distilled)}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """The flow's losses plus alpha * those of the distillation, (B,)."""
        flow = self.flow_losses(network, dims, state, action, strip_prefix("flow", noise))
        return flow + self.alpha * self.distillation_losses(network, dims, state, strip_prefix("distill", noise))

    def flow_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """The randomness of `flow_losses`."""
        return super().loss_noise(dims, batch)

    def flow_losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors (B,) of the flow's velocity, as in `RectifiedFlowPolicy.losses`."""
        return super().losses(network.part("flow"), dims, state, action, noise)

    def distillation_losses(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Squared distances (B,), means over A, of unclamped one-step actions to the flow's, which gets no gradient."""
        with torch.no_grad():
            wanted = super().sample(network.part("flow"), dims, state, noise)
        return (self.one_step_action(network, state, noise) - wanted).square().mean(dim=-1)

    def one_step_action(self, network: Network, state: Tensor, noise: Noise) -> Tensor:
        """What the one-step network makes of the noise (B, A), not clamped."""
        start = noise["start"]
        return network.part("one_step")(start, torch.zeros_like(start[:, 0]), state)

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        return self.one_step_action(network, state, noise).clamp(-dims.max_action, dims.max_action)


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
        """A denoiser, whose states are one number longer where the end is drawn."""
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
        average = partial(self.average_velocity, network, state, end)
        # du/dt by two reverse passes: the pull-back is linear, and its own pull-back is the derivative. Forward mode is
        # no faster once compiled, and stops at an `autograd.Function` without a rule for it, as dqlab's Mish is.
        u, pull = torch.func.vjp(average, x, t)[:2]
        slope = torch.func.vjp(pull, torch.zeros_like(u))[1]((velocity, torch.ones_like(t)))[0]
        bound = self.target_bound * dims.max_action
        reached = (x + velocity + (end - t).unsqueeze(-1) * slope).clamp(-bound, bound)
        errors: Tensor = (x + u - reached.detach()).square().mean(dim=-1)
        return errors * (errors.detach() + self.adaptive_floor) ** -self.adaptive_power

    def average_velocity(self, network: Network, state: Tensor, end: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """u (B, A) from the times t (B,) to `end` (B,), at points x (B, A)."""
        seen = state if self.fixed_end else torch.cat([state, end.unsqueeze(-1)], dim=-1)
        out = network(x, t * self.time_scale, seen)
        return out - x if self.residual else out

    def _times(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Where intervals begin and end, (B,) each."""
        drawn, count = [noise[name] for name in ("t", "end") if name in noise], self.n_times
        if count:
            drawn = [(each * count).floor() / count for each in drawn]
        if self.fixed_end:
            return drawn[0], torch.ones_like(drawn[0])
        t, end = torch.minimum(*drawn), torch.maximum(*drawn)
        return t, torch.where(noise["instant"] < self.instant_share, t, end)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {"start": normal(batch, dims.action)}

    def unbounded_action(self, network: Network, state: Tensor, noise: Noise) -> Tensor:
        """x_0 + u(x_0, 0, 1), (B, A), which may lie outside of the action range. `noise` is that of `sample`."""
        start = noise["start"]
        begin = torch.zeros_like(start[:, 0])
        return start + self.average_velocity(network, state, torch.ones_like(begin), start, begin)

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        return self.unbounded_action(network, state, noise).clamp(-dims.max_action, dims.max_action)


Velocity = Callable[[Tensor, int], Tensor]
"""`(x (B, A), step) -> velocity (B, A)` at time step / n."""


def adjoint_matching_losses(
    tuned: Velocity, base: Velocity, end_adjoint: Callable[[Tensor], Tensor], start: Tensor, eps: Tensor
) -> Tensor:
    """Sums (B,) over a path's n steps of |2 / sigma (v_tuned - v_base) + sigma * adjoint|^2, summed over A.

    They bend a flow whose actions have density p towards density p * exp(r), r a reward, by "memoryless" paths, whose
    noise forgets where they began (Domingo-Enrich et al. 2025, theorem 1). The lean adjoint is the gradient of -r,
    carried back by the base flow alone, not through the chain.

    sigma = sqrt(2 (1 - t + h) / (t + h)) at t = step / n, h = 1 / n: that of the paper with h added, which keeps it
    finite at t = 0. Gradients reach the velocity `tuned` alone, at points that count as given.

    Args:
        tuned: the velocity that draws the paths: Euler-Maruyama steps of dx = (2 v(x, t) - x / t) dt + sigma dB, t + h
            in place of t where it divides; the last step is one of the base flow, without noise.
        base: that of the flow that is tilted. Adjoints go back by da/dt = -(2 dv/dx - 1 / t)^T a; the step from t + h
            to t takes dv/dx at the point of t and the time t + h, as QAM's code does.
        end_adjoint: minus the reward's gradient (B, A) at end points (B, A).
        start, eps: where paths begin (B, A), and (n - 1, B, A); standard normal.
    """
    n_steps, points, velocities = len(eps) + 1, [start], [tuned(start, 0)]
    scales = [math.sqrt(2 * (n_steps - step + 1) / (step + 1)) for step in range(n_steps)]
    for step in range(n_steps - 1):
        moved = points[step] + 2 * velocities[step] / n_steps - points[step] / (step + 1)
        points.append((moved + scales[step] / math.sqrt(n_steps) * eps[step]).detach())
        velocities.append(tuned(points[-1], step + 1))
    end = (points[-1] + base(points[-1], n_steps - 1) / n_steps).detach()
    adjoint, errors = end_adjoint(end), []
    for step in reversed(range(n_steps)):

        def following(x: Tensor, step: int = step) -> Tensor:
            return base(x, step + 1)

        pulled = pull_back(following, points[step], adjoint)
        adjoint = adjoint * (step / (step + 1)) + pulled * (2 / n_steps)
        wanted = base(points[step], step) - 0.5 * scales[step] ** 2 * adjoint
        errors.append(((velocities[step] - wanted.detach()) * (2 / scales[step])).square().sum(dim=-1))
    return torch.stack(errors[::-1]).sum(dim=0)
