"""Transitions on the training device, with what is known of where they come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqlab.algorithms.base import Batch
from dqlab.data.d4rl import Recorded
from dqlab.data.rewards import RewardTransform


def caveat_of(is_d4rl: bool, synthetic: bool) -> str:
    """What must stand beside every score obtained with such data; empty for D4RL's own."""
    return "" if is_d4rl else "synthetic" if synthetic else "not D4RL"


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from and what is in it.

    Attributes:
        source: which data source gave it, such as `d4rl_cache`.
        path: the file; empty where there is none.
        digest: SHA-256 of the file, or of the rows.
        is_d4rl: whether it is D4RL's own file, so that its scores may stand beside published ones.
        rows, episodes, transitions: of the file, and of the Q-learning view of it.
        return_mean, return_std, return_min, return_max: of its episodes.
        skipped: why the sources that were to be asked first had nothing.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
        stand_in: whether it is a small set in place of the task's own data.
        synthetic: whether the rows are made from a formula and a seed, as the task itself is defined.
    """

    source: str
    path: str
    digest: str
    is_d4rl: bool
    rows: int
    episodes: int
    transitions: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    skipped: tuple[str, ...] = ()
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    stand_in: bool = False
    synthetic: bool = False

    @property
    def caveat(self) -> str:
        """What must stand beside every score obtained with this data; empty for D4RL's own.

        Synthetic rows stand in for nothing: they are the task's own data, and are only named.
        """
        return caveat_of(self.is_d4rl, self.synthetic)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for records."""
        return asdict(self)


@dataclass(frozen=True)
class Transitions:
    """A dataset of n transitions, float tensors on one device.

    Attributes:
        state (n, S), action (n, A), reward (n,), next_state (n, S), terminal (n,) as 0.0 or 1.0.
        provenance: where they come from.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def fields(self) -> Batch:
        """All transitions, as one batch."""
        return Batch(self.state, self.action, self.reward, self.next_state, self.terminal)

    def batch(self, index: Tensor) -> Batch:
        """The transitions at index (K, B), gathered on the device: fields (K, B, ...)."""
        return gather(self.fields, index)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Transitions:
        """The same transitions elsewhere."""
        state, action, reward, next_state, terminal = (field.to(device, dtype) for field in self.fields)
        return Transitions(state, action, reward, next_state, terminal, self.provenance)

    def standardised(self, floor: float = 1e-3) -> Transitions:
        """The same with states (s - mean) / (std + floor), over the dataset's states (Fujimoto & Gu 2021, eq. 6)."""
        mean, std = self.state.mean(dim=0), self.state.std(dim=0, correction=0) + floor
        provenance = replace(self.provenance, state_mean=tuple(mean.tolist()), state_std=tuple(std.tolist()))
        state, next_state = ((states - mean) / std for states in (self.state, self.next_state))
        return replace(self, state=state, next_state=next_state, provenance=provenance)


def gather(fields: Batch, index: Tensor) -> Batch:
    """The rows of a batch (n, ...) at index (K, B): fields (K, B, ...)."""
    return Batch(*(field[index] for field in fields))


def q_learning_view(
    recorded: Recorded, episode_limit: int, transform: RewardTransform, origin: dict[str, Any]
) -> Transitions:
    """Transitions as D4RL's `qlearning_dataset` makes them, without its loop.

    Row i < n - 1 becomes (o_i, a_i, r_i, o_{i+1}, terminal_i); rows at which an episode was cut are dropped, because
    o_{i+1} belongs to the next episode.

    Args:
        recorded: the rows of the file.
        episode_limit: steps after which an episode is cut, for files without `timeouts`.
        transform: applied to the kept rewards.
        origin: source, path, digest and is_d4rl of the `Provenance`.
    """
    returns = recorded.episode_returns(episode_limit)
    keep = np.flatnonzero(~recorded.cuts(episode_limit)[:-1])
    reward = transform(recorded.rewards[keep], returns)
    provenance = Provenance(
        **origin,
        rows=len(recorded.rewards),
        episodes=len(returns),
        transitions=len(keep),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_min=float(returns.min()),
        return_max=float(returns.max()),
    )
    return Transitions(
        torch.from_numpy(recorded.observations[keep]),
        torch.from_numpy(recorded.actions[keep]),
        torch.from_numpy(np.ascontiguousarray(reward, dtype=np.float32)),
        torch.from_numpy(recorded.observations[keep + 1]),
        torch.from_numpy(recorded.terminals[keep].astype(np.float32)),
        provenance,
    )
