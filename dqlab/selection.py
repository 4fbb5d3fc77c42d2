"""Selection strategies: which of C candidate actions is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dqlab.fields import check_fields, require
from dqlab.noise import NoiseSpec, gumbel
from dqlab.registry import Registry


class Selection(Protocol):
    """Chooses among candidates; `n_candidates` says how many it wants."""

    @property
    def n_candidates(self) -> int:
        """C, candidate actions a state."""

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """The randomness that choosing for `batch` states needs."""

    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Index (B,) into candidates (C, B, A) with critic values q (M, C, B)."""


selections: Registry[Callable[[], Selection]] = Registry("selection", "Which of the candidate actions is taken.")


@selections.register("softmax_q", source="Diffusion-QL's official code (sample_action); not described in the paper")
@dataclass(frozen=True)
class SoftmaxQ:
    """Draw a candidate with probability softmax(min over critics of Q / temperature)."""

    n_candidates: int = 50
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.n_candidates >= 1, self, "n_candidates", "at least 1")
        require(self.temperature > 0, self, "temperature", "positive")

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """Gumbel noise (C, B), which turns an argmax into the draw."""
        return {"choice": gumbel(self.n_candidates, batch)}

    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Index (B,) of the drawn candidates."""
        return (q.amin(dim=0) / self.temperature + noise["choice"]).argmax(dim=0)


@selections.register("single", source="the policy as trained; the official code's BC")
@dataclass(frozen=True)
class Single:
    """Take the one action that was sampled; critics are not asked."""

    n_candidates: int = 1

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        """None."""
        return {}

    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Zeros (B,)."""
        return torch.zeros(candidates.shape[1], dtype=torch.int64, device=candidates.device)
