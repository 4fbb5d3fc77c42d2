"""A Lagrange multiplier as a network of one parameter, so that it is trained, packed and saved like any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Multiplier(nn.Module):
    """exp(log_value), its logarithm between -5 and 10 (Kumar et al. 2019).

    Args:
        spread: standard deviation of its logarithm at first, whose mean is 0; where it is 0 the multiplier is 1.
    """

    LOW, HIGH = -5.0, 10.0

    def __init__(self, spread: float = 0.0) -> None:
        super().__init__()
        self.log_value = nn.Parameter(spread * torch.randn(()) if spread else torch.zeros(()))

    def forward(self) -> Tensor:
        """The multiplier, a scalar."""
        return self.log_value.clamp(self.LOW, self.HIGH).exp()

    def ascent(self, excess: Tensor) -> Tensor:
        """A loss whose descent raises the multiplier while the constraint's excess, a scalar, is positive.

        Its gradient is that of -exp(log_value) * excess; beyond a bound it is zero, unless it leads back.
        """
        log_value = self.log_value.detach()
        outward = ((log_value >= self.HIGH) & (excess > 0)) | ((log_value <= self.LOW) & (excess < 0))
        return -self.log_value * torch.where(outward, 0.0, log_value.clamp(self.LOW, self.HIGH).exp() * excess)
