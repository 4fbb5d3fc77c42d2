"""Plain multilayer perceptrons with Mish, PyTorch's default initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dqlab.networks.activations import Mish


def mlp(widths: Sequence[int], end_active: bool = False) -> nn.Sequential:
    """Linear layers of the given widths with Mish between them, and after the last one if `end_active`."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), Mish()]
    return nn.Sequential(*(layers if end_active else layers[:-1]))
