"""Plain multilayer perceptrons, PyTorch's default initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dqlab.networks.activations import Activation, activations


def mlp(
    widths: Sequence[int],
    end_active: bool = False,
    activation: Activation = "mish",
    layer_norm: bool = False,
    norm_after: bool = False,
    norm_eps: float = 1e-5,
) -> nn.Sequential:
    """Linear layers of the given widths with activations between them, and after the last one if `end_active`.

    Args:
        widths: of the input, of every hidden layer and of the output.
        end_active: the output is activated as the hidden layers are.
        activation: a name from the `activation` registry, or a factory.
        layer_norm: normalise (Ba et al. 2016) what goes into each activation: linear, LayerNorm, activation, as in
            RLPD (Ball et al. 2023, section 4.2).
        norm_after: normalise what comes out of each activation instead, as in the code of FQL (Park et al. 2025).
        norm_eps: added to LayerNorm's variance.
    """
    make = activations.choose(activation)
    last = None if end_active else -1
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:last]):
        norm = [nn.LayerNorm(width_out, eps=norm_eps)] if layer_norm else []
        layers += [nn.Linear(width_in, width_out), *([make(), *norm] if norm_after else [*norm, make()])]
    return nn.Sequential(*layers) if end_active else nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
