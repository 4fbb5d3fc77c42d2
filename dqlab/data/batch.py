"""Transitions as algorithms get them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Transitions: state (B, S), action (B, A), reward (B,), next_state (B, S), terminal (B,) as 0.0 or 1.0."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor
