"""Diffusion-QL (Wang, Hunt, Zhou 2022, arXiv 2208.06193) in one file: PyTorch, NumPy and h5py, nothing else.

    python examples/diffusion_ql.py walker2d_medium_expert-v2.hdf5 --grad-norm 5 --out plain-run
    dqlab eval --official plain-run --task walker2d-medium-expert-v2     # D4RL's score of what it saved

The algorithm as its official code runs it, to be read beside the paper: one network of each kind, loops, PyTorch's own
optimiser. dqlab trains the same, several times as fast; a test holds the two together, update for update.

S, A: width of state and action; B: batch; N: diffusion steps; C: candidate actions a state. Actions lie in [-1, 1].
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""`state` and `next_state` (B, S), `action` (B, A), `reward` and `terminal` (B,)."""
Noise = Mapping[str, Tensor]
"""All randomness of an update, as `draw_noise` makes it."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; the paper's for walker2d-medium-expert-v2 (appendix D has each task's).

    Attributes:
        n: N, diffusion steps; `schedule` of their noise: vp, linear or cosine.
        eta: weight of the Q term; `actor_lr`, `critic_lr`: Adam's; `grad_norm`: bound of gradient norms, 0 for none.
        discount: gamma; `tau`: rate of the averages, of the actor's every `ema_every` updates from `ema_start` on.
        max_q_backup: take the best of `candidates` next actions in the TD target.
    """

    n: int = 5
    schedule: str = "vp"
    hidden: int = 256
    eta: float = 1.0
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    grad_norm: float = 5.0
    discount: float = 0.99
    tau: float = 0.005
    ema_start: int = 1000
    ema_every: int = 5
    max_q_backup: bool = False
    candidates: int = 10


# --- The diffusion policy (section 3) ---------------------------------------------------------------------------------


def betas(schedule: str, n: int) -> np.ndarray:
    """How much noise each of the N steps adds, (N,)."""
    if schedule == "vp":
        return np.array([1 - math.exp(-0.1 / n - 0.5 * 9.9 * (2 * t - 1) / n**2) for t in range(1, n + 1)])
    if schedule == "linear":
        return np.linspace(1e-4, 2e-2, n)
    grid = np.linspace(0, n + 1, n + 1)  # cosine
    bar = np.cos((grid / (n + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)


class TimeEmbedding(nn.Module):
    """Timesteps (B,) as 8 sines and 8 cosines, (B, 16)."""

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        frequency = torch.exp(-math.log(10000) / 7 * torch.arange(8, dtype=torch.float64)).to(like)
        angle = t[:, None].to(like) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Denoiser(nn.Module):
    """eps_theta(x, t, s): the noise in a noisy action x (B, A)."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(TimeEmbedding(), nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16))
        self.mid_layer = mlp(action_dim + 16 + state_dim, hidden)
        self.final_layer = nn.Linear(hidden, action_dim)

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        embedding, *layers = self.time_mlp
        time = embedding(t, x)
        for layer in layers:
            time = layer(time)
        return self.final_layer(self.mid_layer(torch.cat([x, time, state], dim=1)))


def mlp(inputs: int, hidden: int) -> nn.Sequential:
    """Three hidden layers with Mish."""
    sizes = (inputs, hidden, hidden, hidden)
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Mish())))


class Actor(nn.Module):
    """The policy pi_theta(a | s): N denoising steps from Gaussian noise."""

    def __init__(self, state_dim: int, action_dim: int, settings: Settings) -> None:
        super().__init__()
        self.model = Denoiser(state_dim, action_dim, settings.hidden)
        self.n, self.action_dim = settings.n, action_dim
        beta = torch.as_tensor(betas(settings.schedule, settings.n), dtype=torch.float64)
        self.register_buffer("betas", beta)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - beta, dim=0))
        self.beta, self.bar = beta.tolist(), self.alphas_cumprod.tolist()  # beta_i, abar_i as numbers

    def sample(self, state: Tensor, start: Tensor, noise: Tensor) -> Tensor:
        """An action (B, A) for each state (B, S), from x_N = `start` (B, A) and `noise` (N, B, A); gradients pass.

        x_0 as eps_theta sees it is clamped to the actions' range; then one step of the posterior q(x_{i-1} | x_i, x_0).
        """
        x = start
        for step, i in enumerate(reversed(range(self.n))):
            beta, bar, before = self.beta[i], self.bar[i], self.bar[i - 1] if i > 0 else 1.0
            eps = self.model(x, torch.full((len(x),), i, device=x.device), state)
            x_0 = (math.sqrt(1 / bar) * x - math.sqrt(1 / bar - 1) * eps).clamp(-1, 1)
            x = (beta * math.sqrt(before) * x_0 + (1 - before) * math.sqrt(1 - beta) * x) / (1 - bar)
            if i > 0:
                variance = max(beta * (1 - before) / (1 - bar), 1e-20)
                x = x + math.sqrt(variance) * noise[step]
        return x.clamp(-1, 1)

    def bc_loss(self, state: Tensor, action: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """L_d: how badly eps_theta finds the noise eps (B, A) that is added to data at timesteps t (B,)."""
        bar = self.alphas_cumprod[t, None]
        noisy = bar.sqrt().to(action) * action + (1 - bar).sqrt().to(action) * eps
        return F.mse_loss(self.model(noisy, t, state), eps)


# --- Q-learning (section 4, algorithm 1) ------------------------------------------------------------------------------


class Critic(nn.Module):
    """Two independent Q_phi(s, a), (B,) each."""

    def __init__(self, state_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.q1_model, self.q2_model = (
            mlp(state_dim + action_dim, hidden).append(nn.Linear(hidden, 1)) for _ in range(2)
        )

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([state, action], dim=1)
        return self.q1_model(inputs)[:, 0], self.q2_model(inputs)[:, 0]


class DiffusionQL:
    """The agent: actor, critics, their averages, and one update of them all."""

    def __init__(self, actor: Actor, critic: Critic, settings: Settings) -> None:
        self.actor, self.critic, self.settings, self.step = actor, critic, settings, 0
        self.actor_ema, self.critic_target = copy.deepcopy(actor), copy.deepcopy(critic)
        self.actor_optimiser = torch.optim.Adam(actor.parameters(), lr=settings.actor_lr)
        self.critic_optimiser = torch.optim.Adam(critic.parameters(), lr=settings.critic_lr)

    def update(self, batch: Batch, noise: Noise) -> dict[str, float]:
        """One update on a batch; the losses."""
        c = self.settings
        target = self.td_target(batch, noise)
        critic_loss = sum(F.mse_loss(q, target) for q in self.critic(batch["state"], batch["action"]))
        self._descend(critic_loss, self.critic, self.critic_optimiser)

        state = batch["state"]
        bc_loss = self.actor.bc_loss(state, batch["action"], noise["bc_t"], noise["bc_eps"])
        action = self.actor.sample(state, noise["actor_start"], noise["actor_noise"])
        q, other = self.critic(state, action)
        if int(noise["coin"]) == 1:  # a fair coin says which critic is ascended; the other one sets the scale
            q, other = other, q
        q_loss = -q.mean() / other.abs().mean().detach()
        actor_loss = bc_loss + c.eta * q_loss
        self._descend(actor_loss, self.actor, self.actor_optimiser)

        if self.step >= c.ema_start and self.step % c.ema_every == 0:
            follow(self.actor_ema, self.actor, c.tau)
        follow(self.critic_target, self.critic, c.tau)
        self.step += 1
        losses = {"critic": critic_loss, "bc": bc_loss, "q": q_loss, "actor": actor_loss}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    @torch.no_grad()
    def td_target(self, batch: Batch, noise: Noise) -> Tensor:
        """r + gamma min_j Q'_j(s', a'), a' by the averaged actor; with max_q_backup the best of C for each Q'_j."""
        c, next_value = self.settings, batch["next_state"]
        if c.max_q_backup:
            next_value = next_value.repeat_interleave(c.candidates, dim=0)
        action = self.actor_ema.sample(next_value, noise["target_start"], noise["target_noise"])
        values = self.critic_target(next_value, action)
        if c.max_q_backup:
            values = tuple(q.view(-1, c.candidates).max(dim=1).values for q in values)
        return batch["reward"] + (1 - batch["terminal"]) * c.discount * torch.minimum(*values)

    def _descend(self, loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        if self.settings.grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.settings.grad_norm)
        optimiser.step()

    @torch.no_grad()
    def act(self, state: Tensor, candidates: int = 50) -> Tensor:
        """An action (A,) for a state (S,): one of 50, drawn by the softmax of the target critics' minimum.

        The paper does not describe this; its official code does it, and scores depend on it.
        """
        states = state.expand(candidates, -1)
        start = torch.randn(candidates, self.actor.action_dim).to(states)
        actions = self.actor.sample(states, start, torch.randn(self.actor.n, *start.shape).to(states))
        q = torch.minimum(*self.critic_target(states, actions))
        return actions[torch.multinomial(q.softmax(dim=0), 1)[0]]


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, rate: float) -> None:
    """average <- (1 - rate) average + rate network."""
    for old, new in zip(average.parameters(), network.parameters()):
        old.lerp_(new, rate)


def draw_noise(rows: int, action_dim: int, settings: Settings, device: torch.device) -> dict[str, Tensor]:
    """The randomness of one update of B rows."""
    n, targets = settings.n, rows * (settings.candidates if settings.max_q_backup else 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, action_dim, device=device)

    return {
        "target_start": normal(targets),
        "target_noise": normal(n, targets),
        "bc_t": torch.randint(0, n, (rows,), device=device),
        "bc_eps": normal(rows),
        "actor_start": normal(rows),
        "actor_noise": normal(n, rows),
        "coin": torch.randint(0, 2, ()),
    }


# --- Data and training ------------------------------------------------------------------------------------------------


def read_d4rl(path: Path, episode_limit: int = 1000) -> dict[str, Tensor]:
    """Transitions of a D4RL file: row i + 1 follows row i, except where an episode was cut by its step limit."""
    with h5py.File(path) as file:
        state, action, reward, terminal = (
            file[name][()] for name in ("observations", "actions", "rewards", "terminals")
        )
        timeout = file["timeouts"][()].astype(bool) if "timeouts" in file else None
    if timeout is None:
        timeout, length = np.zeros(len(reward), dtype=bool), 0
        for row, ended in enumerate(terminal):
            length += 1
            timeout[row] = length == episode_limit
            length = 0 if ended or timeout[row] else length
    kept = np.flatnonzero(~timeout[:-1])
    columns = {"state": state[kept], "action": action[kept], "reward": reward[kept], "next_state": state[kept + 1]}
    columns["terminal"] = terminal[kept]
    return {name: torch.as_tensor(values, dtype=torch.float32) for name, values in columns.items()}


def batches(data: Batch, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Uniformly drawn batches, for ever."""
    there = {name: column.to(device) for name, column in data.items()}
    while True:
        rows = torch.randint(0, len(data["reward"]), (size,), device=device)
        yield {name: column[rows] for name, column in there.items()}


def train(data: Batch, settings: Settings, steps: int, size: int, out: Path, log_every: int = 1000) -> DiffusionQL:
    """Train from scratch; both learning rates fall to 0 along a cosine. Weights are saved at every log."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state_dim, action_dim = data["state"].shape[1], data["action"].shape[1]
    actor = Actor(state_dim, action_dim, settings).to(device)
    agent = DiffusionQL(actor, Critic(state_dim, action_dim, settings.hidden).to(device), settings)
    optimisers = agent.actor_optimiser, agent.critic_optimiser
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) for optimiser in optimisers]
    for batch, step in zip(batches(data, size, device), range(1, steps + 1)):
        losses = agent.update(batch, draw_noise(size, action_dim, settings, device))
        for schedule in schedules:
            schedule.step()
        if step % log_every == 0 or step == steps:
            print(
                f"{step:,} of {steps:,}: " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()),
                flush=True,
            )
            save(agent, out)
    return agent


def save(agent: DiffusionQL, out: Path) -> None:
    """As the official code saves them: actor.pth and critic.pth, the newest."""
    out.mkdir(parents=True, exist_ok=True)
    for name, network in (("actor", agent.actor), ("critic", agent.critic)):
        torch.save(network.state_dict(), out / f"{name}.tmp")
        (out / f"{name}.tmp").replace(out / f"{name}.pth")


def main() -> None:
    parser = argparse.ArgumentParser(description="Diffusion-QL on a D4RL file.")
    parser.add_argument("data", type=Path, help="HDF5 in D4RL's layout; actions in [-1, 1]")
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--eta", type=float, default=1.0)
    parser.add_argument("--lr", type=float, default=3e-4, help="the actor's; the critics' is 3e-4")
    parser.add_argument("--grad-norm", type=float, default=5.0, help="0 for none")
    parser.add_argument("--max-q-backup", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("diffusion-ql"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    data = read_d4rl(args.data)
    print(f"{len(data['reward']):,} transitions")
    settings = Settings(eta=args.eta, actor_lr=args.lr, grad_norm=args.grad_norm, max_q_backup=args.max_q_backup)
    train(data, settings, args.steps, args.batch, args.out)


if __name__ == "__main__":
    main()
