"""The yardstick: Diffusion-QL in plain PyTorch, run the way the official code runs it.

Same algorithm, same hyper-parameters, none of dqlab's code. What costs it time is what costs the official code time:
the dataset stays on the host and every batch is copied over; losses are read with `.item()` at every step; coefficients
are gathered from tables at every diffusion step and the time embedding is computed afresh for every row; the activation
is PyTorch's own Mish; the actor's loss sends gradients into the critic's weights, which are thrown away; averages move
parameter by parameter; a data set is walked through row by row; episodes are evaluated one after the other, one state a
call.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def hidden_layers(width_in: int, width: int = 256) -> list[nn.Module]:
    """Three linear layers, each with PyTorch's Mish."""
    layers: list[nn.Module] = []
    for size in (width_in, width, width):
        layers += [nn.Linear(size, width), nn.Mish()]
    return layers


class TimeEmbedding(nn.Module):
    """Sines and cosines, the frequencies computed at every call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        frequency = torch.exp(torch.arange(half, device=t.device) * -(math.log(10000) / (half - 1)))
        angle = t[:, None] * frequency[None, :]
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class Denoiser(nn.Module):
    def __init__(self, state_dim: int, action_dim: int, time_dim: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(
            TimeEmbedding(time_dim), nn.Linear(time_dim, 2 * time_dim), nn.Mish(), nn.Linear(2 * time_dim, time_dim)
        )
        self.middle = nn.Sequential(*hidden_layers(state_dim + action_dim + time_dim))
        self.last = nn.Linear(256, action_dim)

    def forward(self, x: torch.Tensor, t: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(torch.cat([x, self.time(t), state], dim=1)))


class Critic(nn.Module):
    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*hidden_layers(state_dim + action_dim), nn.Linear(256, 1))
        self.second = nn.Sequential(*hidden_layers(state_dim + action_dim), nn.Linear(256, 1))

    def forward(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([state, action], dim=-1)
        return self.first(both), self.second(both)

    def smallest(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.min(*self(state, action))


def gather(table: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Coefficients (B, 1) at timesteps t (B,)."""
    return table.gather(-1, t).reshape(-1, 1)


class Diffusion(nn.Module):
    """The diffusion policy: the variance-preserving schedule, DDPM sampling with x_0 clipped."""

    def __init__(self, state_dim: int, action_dim: int, n_timesteps: int = 5) -> None:
        super().__init__()
        self.action_dim, self.n = action_dim, n_timesteps
        self.model = Denoiser(state_dim, action_dim)
        t = np.arange(1, n_timesteps + 1)
        betas = 1 - np.exp(-0.1 / n_timesteps - 0.5 * 9.9 * (2 * t - 1) / n_timesteps**2)
        abar = np.cumprod(1 - betas)
        before = np.append(1.0, abar[:-1])
        variance = betas * (1 - before) / (1 - abar)
        self.table("root_abar", np.sqrt(abar))
        self.table("root_rest", np.sqrt(1 - abar))
        self.table("inverse_root", np.sqrt(1 / abar))
        self.table("inverse_rest", np.sqrt(1 / abar - 1))
        self.table("log_variance", np.log(np.maximum(variance, 1e-20)))
        self.table("from_start", betas * np.sqrt(before) / (1 - abar))
        self.table("from_x", (1 - before) * np.sqrt(1 - betas) / (1 - abar))

    def table(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def step_back(self, x: torch.Tensor, t: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        eps = self.model(x, t, state)
        start = gather(self.inverse_root, t) * x - gather(self.inverse_rest, t) * eps
        start = start.clamp(-1, 1)
        mean = gather(self.from_start, t) * start + gather(self.from_x, t) * x
        noise = torch.randn_like(x)
        not_last = (1 - (t == 0).float()).reshape(-1, 1)
        return mean + not_last * (0.5 * gather(self.log_variance, t)).exp() * noise

    def sample(self, state: torch.Tensor) -> torch.Tensor:
        x = torch.randn((len(state), self.action_dim), device=state.device)
        for i in reversed(range(self.n)):
            t = torch.full((len(state),), i, device=state.device, dtype=torch.long)
            x = self.step_back(x, t, state)
        return x.clamp(-1, 1)

    def loss(self, action: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        t = torch.randint(0, self.n, (len(action),), device=action.device).long()
        eps = torch.randn_like(action)
        noisy = gather(self.root_abar, t) * action + gather(self.root_rest, t) * eps
        return F.mse_loss(self.model(noisy, t, state), eps)


def d4rl_transitions(path: Path) -> dict[str, np.ndarray]:
    """Transitions of a D4RL file, the way D4RL's `qlearning_dataset` makes them: a loop that appends row after row."""
    import h5py

    with h5py.File(path, "r") as file:
        recorded = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    columns: dict[str, list[object]] = {name: [] for name in ("state", "action", "next_state", "reward", "terminal")}
    for row in range(len(recorded["rewards"]) - 1):
        if recorded["timeouts"][row]:
            continue  # the next row begins another episode
        columns["state"].append(recorded["observations"][row].astype(np.float32))
        columns["action"].append(recorded["actions"][row].astype(np.float32))
        columns["next_state"].append(recorded["observations"][row + 1].astype(np.float32))
        columns["reward"].append(recorded["rewards"][row].astype(np.float32))
        columns["terminal"].append(bool(recorded["terminals"][row]))
    return {name: np.array(column) for name, column in columns.items()}


class HostData:
    """Transitions in the host's memory; a batch is indexed there and copied to the device, field by field."""

    def __init__(self, fields: dict[str, np.ndarray], device: str) -> None:
        names = ("state", "action", "next_state", "reward", "terminal")
        self.fields = [torch.from_numpy(fields[name]).float() for name in names]
        self.fields[3:] = [field.view(-1, 1) for field in self.fields[3:]]
        self.device = device

    def sample(self, batch: int) -> tuple[torch.Tensor, ...]:
        index = torch.randint(0, len(self.fields[0]), (batch,))
        return tuple(field[index].to(self.device) for field in self.fields)


class Agent:
    def __init__(self, state_dim: int, action_dim: int, device: str = "cpu", n_timesteps: int = 5) -> None:
        self.device, self.step = device, 0
        self.actor = Diffusion(state_dim, action_dim, n_timesteps).to(device)
        self.actor_average = copy.deepcopy(self.actor)
        self.critic = Critic(state_dim, action_dim).to(device)
        self.critic_target = copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=3e-4)
        self.history: dict[str, list[float]] = {"bc": [], "q": [], "actor": [], "critic": []}

    def update(self, data: HostData, batch: int = 256, eta: float = 1.0, grad_norm: float = 1.0) -> None:
        state, action, next_state, reward, terminal = data.sample(batch)
        self.update_critic(state, action, next_state, reward, terminal, grad_norm)
        self.update_actor(state, action, eta, grad_norm)
        if self.step % 5 == 0 and self.step >= 1000:
            average(self.actor_average, self.actor, 0.005)
        average(self.critic_target, self.critic, 0.005)
        self.step += 1

    def update_critic(
        self,
        state: torch.Tensor,
        action: torch.Tensor,
        next_state: torch.Tensor,
        reward: torch.Tensor,
        terminal: torch.Tensor,
        grad_norm: float,
    ) -> None:
        q1, q2 = self.critic(state, action)
        next_action = self.actor_average.sample(next_state)
        target = (reward + (1 - terminal) * 0.99 * self.critic_target.smallest(next_state, next_action)).detach()
        loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.critic.parameters(), max_norm=grad_norm, norm_type=2)
        self.critic_optimizer.step()
        self.history["critic"].append(loss.item())

    def update_actor(self, state: torch.Tensor, action: torch.Tensor, eta: float, grad_norm: float) -> None:
        bc_loss = self.actor.loss(action, state)
        q1, q2 = self.critic(state, self.actor.sample(state))
        if np.random.uniform() > 0.5:
            q1, q2 = q2, q1
        q_loss = -q1.mean() / q2.abs().mean().detach()
        loss = bc_loss + eta * q_loss
        self.actor_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), max_norm=grad_norm, norm_type=2)
        self.actor_optimizer.step()
        for name, value in (("bc", bc_loss), ("q", q_loss), ("actor", loss)):
            self.history[name].append(value.item())

    def sample_action(self, state: np.ndarray, candidates: int = 50) -> np.ndarray:
        """One action for one state: 50 candidates, one drawn by the softmax of their values."""
        repeated = torch.FloatTensor(state.reshape(1, -1)).to(self.device).repeat_interleave(candidates, dim=0)
        with torch.no_grad():
            actions = self.actor.sample(repeated)
            value = self.critic_target.smallest(repeated, actions).flatten()
            index = torch.multinomial(F.softmax(value, dim=0), 1)
        return actions[index].cpu().numpy().flatten()


def average(target: nn.Module, source: nn.Module, rate: float) -> None:
    for into, value in zip(target.parameters(), source.parameters(), strict=True):
        into.data.copy_(rate * value.data + (1 - rate) * into.data)


def evaluate(agent: Agent, env: object, episodes: int) -> list[float]:
    """Returns of episodes played one after the other."""
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=episode)  # type: ignore[attr-defined]
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(agent.sample_action(np.asarray(state)))  # type: ignore[attr-defined]
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns
