"""Adjoint matching: the regression that bends a flow towards actions of higher value, without its chain's gradient.

The base flow's actions have some density p. With noise whose size forgets where a path began ("memoryless"), the flow
that solves the stochastic control problem of a reward r gives actions of density p * exp(r) (Domingo-Enrich et al.
2025, theorem 1). Its velocity is found by regression on the lean adjoint, the gradient of -r carried back along the
paths by the base flow alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, int], Tensor]
"""`(x (B, A), step) -> velocity (B, A)` at time step / n."""


def adjoint_matching_losses(
    tuned: Velocity, base: Velocity, end_adjoint: Callable[[Tensor], Tensor], start: Tensor, eps: Tensor
) -> Tensor:
    """Sums (B,) over a path's n steps of |2 / sigma (v_tuned - v_base) + sigma * adjoint|^2, summed over A.

    sigma = sqrt(2 (1 - t + h) / (t + h)) at t = step / n, h = 1 / n: that of the paper with h added, which keeps it
    finite at t = 0. Gradients reach `tuned` alone, at points that count as given.

    Args:
        tuned: the velocity that is fitted; it also draws the paths.
        base: that of the flow whose actions' density is tilted.
        end_adjoint: minus the reward's gradient (B, A) at end points (B, A).
        start: where paths begin, (B, A), standard normal.
        eps: standard normal, (n - 1, B, A).
    """
    scales = memoryless_scales(len(eps) + 1)
    points, velocities = memoryless_path(tuned, base, start, eps)
    adjoints = lean_adjoints(base, points[:-1], end_adjoint(points[-1]))
    errors = []
    for step, (x, velocity) in enumerate(zip(points, velocities, strict=False)):
        wanted = base(x, step) - 0.5 * scales[step] ** 2 * adjoints[step]
        errors.append(((velocity - wanted.detach()) * (2 / scales[step])).square().sum(dim=-1))
    return torch.stack(errors).sum(dim=0)


def memoryless_scales(n_steps: int) -> list[float]:
    """sigma at every step."""
    return [math.sqrt(2 * (n_steps - step + 1) / (step + 1)) for step in range(n_steps)]


def memoryless_path(tuned: Velocity, base: Velocity, start: Tensor, eps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The n + 1 points (B, A) of a path, cut off from the graph, and the tuned velocities at all of them but the last.

    Euler-Maruyama steps of dx = (2 v(x, t) - x / t) dt + sigma dB, t + h in place of t where it divides; the last step
    is one of the base flow, without noise.
    """
    n_steps = len(eps) + 1
    scales, points, velocities = memoryless_scales(n_steps), [start], []
    for step in range(n_steps):
        x = points[-1]
        velocities.append(tuned(x, step))
        if step < n_steps - 1:
            moved = x + 2 * velocities[-1] / n_steps - x / (step + 1)
            points.append((moved + scales[step] / math.sqrt(n_steps) * eps[step]).detach())
        else:
            points.append((x + base(x, step) / n_steps).detach())
    return points, velocities


def lean_adjoints(base: Velocity, points: list[Tensor], adjoint: Tensor) -> list[Tensor]:
    """The adjoints (B, A) at n points, from that at the end: steps back of da/dt = -(2 dv/dx - 1 / t)^T a.

    A step from t + h to t takes the base flow's derivative at the point of t and the time t + h, as QAM's code does.
    """
    adjoints: list[Tensor] = []
    for step in reversed(range(len(points))):
        pull = torch.func.vjp(lambda x, step=step: base(x, step + 1), points[step])[1]
        adjoint = adjoint * (step / (step + 1)) + pull(adjoint)[0] * (2 / len(points))
        adjoints.append(adjoint.detach())
    return adjoints[::-1]
