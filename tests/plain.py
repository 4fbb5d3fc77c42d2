"""Diffusion-QL once more, deliberately plain: one network of each kind, loops, PyTorch's own optimiser, no vmap.

Written from the description of the algorithm, sharing no code with dqlab; tests hold dqlab against it.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def betas(name: str, n: int) -> np.ndarray:
    if name == "vp":
        return np.array([1 - math.exp(-0.1 / n - 0.5 * 9.9 * (2 * t - 1) / n**2) for t in range(1, n + 1)])
    if name == "linear":
        return np.array([1e-4 + (2e-2 - 1e-4) * t / (n - 1) for t in range(n)])
    grid = np.linspace(0, n + 1, n + 1)
    bar = np.cos((grid / (n + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)


class Actor(nn.Module):
    def __init__(self, state_dim: int, action_dim: int, hidden: int, n: int, schedule: str) -> None:
        super().__init__()
        self.t1, self.t2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.l1 = nn.Linear(action_dim + 16 + state_dim, hidden)
        self.l2, self.l3 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, action_dim)
        self.n, self.beta = n, betas(schedule, n)
        self.abar = np.cumprod(1 - self.beta)

    def eps(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        frequency = torch.tensor([math.exp(-math.log(10000) * i / 7) for i in range(8)], dtype=x.dtype)
        angle = t.to(x.dtype)[:, None] * frequency[None]
        time = self.t2(F.mish(self.t1(torch.cat([torch.sin(angle), torch.cos(angle)], 1))))
        h = torch.cat([x, time, s], 1)
        for layer in (self.l1, self.l2, self.l3):
            h = F.mish(layer(h))
        return self.out(h)

    def sample(self, s: torch.Tensor, start: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = start
        for k, i in enumerate(range(self.n - 1, -1, -1)):
            a, b = self.abar[i], self.beta[i]
            previous = self.abar[i - 1] if i > 0 else 1.0
            e = self.eps(x, torch.full((len(x),), i), s)
            x0 = torch.clamp(math.sqrt(1 / a) * x - math.sqrt(1 / a - 1) * e, -1, 1)
            x = b * math.sqrt(previous) / (1 - a) * x0 + (1 - previous) * math.sqrt(1 - b) / (1 - a) * x
            if i > 0:
                log_variance = math.log(max(b * (1 - previous) / (1 - a), 1e-20))
                x = x + math.exp(0.5 * log_variance) * noise[k]
        return torch.clamp(x, -1, 1)

    def bc_loss(self, s: torch.Tensor, a: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        bar = torch.tensor(self.abar, dtype=a.dtype)[t][:, None]
        return F.mse_loss(self.eps(torch.sqrt(bar) * a + torch.sqrt(1 - bar) * eps, t, s), eps)


def critic(state_dim: int, action_dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(state_dim + action_dim, hidden),
        nn.Mish(),
        nn.Linear(hidden, hidden),
        nn.Mish(),
        nn.Linear(hidden, hidden),
        nn.Mish(),
        nn.Linear(hidden, 1),
    )


class Agent:
    def __init__(self, actor: Actor, q1: nn.Module, q2: nn.Module, **settings: float) -> None:
        self.actor, self.q1, self.q2 = actor, q1, q2
        self.ema, self.q1_target, self.q2_target = (copy.deepcopy(net) for net in (actor, q1, q2))
        self.settings = settings
        self.actor_optimiser = torch.optim.Adam(actor.parameters(), lr=settings["actor_lr"])
        self.critic_parameters = [*q1.parameters(), *q2.parameters()]
        self.critic_optimiser = torch.optim.Adam(self.critic_parameters, lr=3e-4)
        self.step = 0

    def update(self, b: dict[str, torch.Tensor], z: dict[str, torch.Tensor]) -> list[float]:
        c = self.settings
        with torch.no_grad():
            following = b["next_state"]
            if c["max_q_backup"]:
                following = following.repeat_interleave(10, 0)
            action = self.ema.sample(following, z["target_start"], z["target_noise"])
            inputs = torch.cat([following, action], 1)
            t1, t2 = self.q1_target(inputs)[:, 0], self.q2_target(inputs)[:, 0]
            if c["max_q_backup"]:
                t1, t2 = t1.view(-1, 10).max(1).values, t2.view(-1, 10).max(1).values
            y = b["reward"] + (1 - b["terminal"]) * c["discount"] * torch.min(t1, t2)
        inputs = torch.cat([b["state"], b["action"]], 1)
        critic_loss = F.mse_loss(self.q1(inputs)[:, 0], y) + F.mse_loss(self.q2(inputs)[:, 0], y)
        self._descend(self.critic_optimiser, self.critic_parameters, critic_loss)
        bc_loss = self.actor.bc_loss(b["state"], b["action"], z["bc_t"], z["bc_eps"])
        new = torch.cat([b["state"], self.actor.sample(b["state"], z["actor_start"], z["actor_noise"])], 1)
        v1, v2 = self.q1(new), self.q2(new)
        if int(z["coin"]) == 1:
            v1, v2 = v2, v1
        q_loss = -v1.mean() / v2.abs().mean().detach()
        actor_loss = bc_loss + c["eta"] * q_loss
        self._descend(self.actor_optimiser, list(self.actor.parameters()), actor_loss)
        if self.step >= c["ema_start"] and self.step % 5 == 0:
            self._follow(self.ema, self.actor, 0.005)
        self._follow(self.q1_target, self.q1, 0.005)
        self._follow(self.q2_target, self.q2, 0.005)
        self.step += 1
        return [float(value.detach()) for value in (critic_loss, bc_loss, q_loss, actor_loss)]

    def _descend(self, optimiser: torch.optim.Adam, parameters: list[nn.Parameter], loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.settings["grad_norm"] > 0:
            nn.utils.clip_grad_norm_(parameters, self.settings["grad_norm"])
        optimiser.step()

    @staticmethod
    def _follow(target: nn.Module, source: nn.Module, rate: float) -> None:
        for t, s in zip(target.parameters(), source.parameters(), strict=True):
            t.data.copy_((1 - rate) * t.data + rate * s.data)
