"""Networks of one shape that see the same inputs: on a GPU they are called as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def one_by_one(device: torch.device) -> bool:
    """Whether members are called one after the other: on a CPU, where a stacked call is no faster."""
    return device.type == "cpu"


class Members(nn.ModuleList):
    """M networks.

    Args:
        networks: they may differ in anything.
        alike: they differ in their parameters' values only, and have no buffers.
    """

    def __init__(self, networks: Sequence[nn.Module], alike: bool = False) -> None:
        super().__init__(networks)
        self.alike = alike and len(networks) > 1
        self.together: Callable[..., Tensor] | None = None
        """What gives the stacked outputs of all members in one call; set where parameters are bound."""

    def each(self, *inputs: Tensor) -> Tensor:
        """Every member's output for these inputs, stacked: (M, ...)."""
        if self.together is not None:
            return self.together(*inputs)
        return torch.stack([member(*inputs) for member in self])
