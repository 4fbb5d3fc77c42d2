"""Bound networks of policies, and a tiny problem to fit them to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.stacking import Network
from dqlab.noise import NoiseSpec, draw_noise, generator_for
from dqlab.policies import Policy
from dqlab.policies.base import Dims

LINE = Dims(state=1, action=1)
"""One state, one action dimension."""


def bind(module: nn.Module, row: Tensor | None = None) -> Network:
    """A module called with its own values, in float64, or with those of a row."""
    layout = Layout.of(module.double() if row is None else module)
    return layout.bind(layout.flatten(dict(module.named_parameters())).detach() if row is None else row)


def drawn(specs: dict[str, NoiseSpec], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The randomness that was declared."""
    return draw_noise(specs, generator_for(seed, "tests", 0), dtype)


class Unprepared(MLPDenoiser):
    """The same denoiser without the shortcut for chains."""

    @property
    def prepare(self) -> None:  # type: ignore[override]
        raise AttributeError


def column(*values: float) -> Tensor:
    """Numbers (B, 1)."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def two_modes(count: int, seed: int = 0) -> Tensor:
    """Actions (count, 1) near -0.5 and 0.7, half of them each, with standard deviation 0.03."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, 2, (count, 1), generator=generator) * 1.2 - 0.5
    return centre + 0.03 * torch.randn(count, 1, generator=generator)


class Fit:
    """Behaviour cloning of `two_modes` in one state, by Adam."""

    def __init__(self, policy: Policy, steps: int, rate: float, batch: int = 128) -> None:
        torch.manual_seed(0)
        self.policy, module = policy, policy.build(LINE)
        self.layout = Layout.of(module)
        self.row = row = self.layout.flatten(dict(module.named_parameters())).detach().requires_grad_()
        self.before = self.loss(row, 1024, 10**6).detach()
        adam = torch.optim.Adam([row], lr=rate)
        for step in range(steps):
            row.grad = torch.autograd.grad(self.loss(row, batch, step), row)[0]
            adam.step()
        self.after = self.loss(row, 1024, 10**6).detach()

    def loss(self, row: Tensor, batch: int, seed: int) -> Tensor:
        noise = drawn(self.policy.loss_noise(LINE, batch), seed, torch.float32)
        actions = two_modes(batch, seed)
        return self.policy.losses(self.layout.bind(row), LINE, torch.zeros(batch, 1), actions, noise).mean()

    def shares(self, count: int = 4000) -> tuple[float, float, float]:
        """Of samples: how many lie within 0.15 of the left mode, of the right mode, and within 0.3 of the middle."""
        noise = drawn(self.policy.sample_noise(LINE, count), 1, torch.float32)
        action = self.policy.sample(self.layout.bind(self.row.detach()), LINE, torch.zeros(count, 1), noise)
        near = [(action - centre).abs() < 0.15 for centre in (-0.5, 0.7)]
        return tuple(float(chosen.float().mean()) for chosen in (*near, (action - 0.1).abs() < 0.3))
