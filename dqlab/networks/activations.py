"""Activations, and perceptrons; Mish, x * tanh(softplus(x)), is x * n / (n + 2) with n = e * (e + 2), e = exp(x).

From x = 20 on the ratio is 1 in float64 too, so e is taken of min(x, 20), which keeps its square finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dqlab.config.registry import Registry

LARGEST = 20.0
activations: Registry[Callable[[], nn.Module]] = Registry(
    "activation", "The nonlinearity between a network's layers.", "TwinCritic.activation"
)
Activation = str | Callable[[], nn.Module]
"""A name from the registry, or what makes the layer."""


def mish(x: Tensor) -> Tensor:
    """Mish (Misra 2019) of any shape, to 1e-6 of PyTorch's own in float32, in value and gradient.

    On a CPU PyTorch's takes a third of Diffusion-QL's update, this one a quarter of that time. Elsewhere, and in half
    precision, PyTorch's single kernel is called; compiled programs contain the formula either way (`DECOMPOSITIONS`).
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return functional.mish(x)
    if torch.is_grad_enabled():  # under vmap, x does not tell whether its gradient is wanted
        return _Mish.apply(x)[0]  # type: ignore[no-untyped-call]
    e = x.clamp(max=LARGEST).exp_()
    n = (e + 2).mul_(e)
    return e.copy_(n).add_(2).reciprocal_().mul_(n).mul_(x)


@activations.register("mish", source="Misra 2019; Diffusion-QL", cites=("misra2019mish", "wang2023diffusion"))
class Mish(nn.Module):
    """x * tanh(softplus(x)), computed with one exponential."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return mish(x)


@activations.register("relu", source="Nair & Hinton 2010", cites=("nair2010rectified",))
def relu() -> nn.Module:
    """max(x, 0)."""
    return nn.ReLU()


@activations.register("gelu", source="Hendrycks & Gimpel 2016", cites=("hendrycks2016gaussian",))
def gelu() -> nn.Module:
    """x * Phi(x), with the standard normal distribution function Phi (exact, by the error function)."""
    return nn.GELU()


@activations.register(
    "gelu_tanh", source="Hendrycks & Gimpel 2016, section 2; JAX's default", cites=("hendrycks2016gaussian",)
)
def gelu_tanh() -> nn.Module:
    """GELU by its approximation x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    return nn.GELU(approximate="tanh")


@activations.register(
    "silu",
    source="Elfwing et al. 2018; Swish of Ramachandran et al. 2017",
    cites=("elfwing2018sigmoid", "ramachandran2017searching"),
)
def silu() -> nn.Module:
    """x * sigmoid(x)."""
    return nn.SiLU()


@activations.register("tanh", source="LeCun et al. 1998", cites=("lecun1998efficient",))
def tanh() -> nn.Module:
    """Hyperbolic tangent."""
    return nn.Tanh()


@activations.register("elu", source="Clevert et al. 2016", cites=("clevert2016fast",))
def elu(alpha: float = 1.0) -> nn.Module:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return nn.ELU(alpha)


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
        layer_norm: normalise (Ba et al. 2016) what goes into each activation (RLPD: Ball et al. 2023, section 4.2).
        norm_after: normalise what comes out of each activation instead (the code of FQL, Park et al. 2025).
        norm_eps: added to LayerNorm's variance.
    """
    make = activations.choose(activation)
    last = None if end_active else -1
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:last]):
        norm = [nn.LayerNorm(width_out, eps=norm_eps)] if layer_norm else []
        layers += [nn.Linear(width_in, width_out), *([make(), *norm] if norm_after else [*norm, make()])]
    return nn.Sequential(*layers) if end_active else nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class _Mish(torch.autograd.Function):
    """Saves the derivative, so that the backward pass is one product."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mish and its derivative tanh(softplus(x)) + x * 4 e (e + 1) / (n + 2)^2, sharing the exponential."""
        bounded = x.clamp(max=LARGEST)
        e = bounded.exp()
        n = (e + 2).mul_(e)
        inverse = (n + 2).reciprocal_()
        gate = n.mul_(inverse)
        slope = bounded.mul_(e).mul_(inverse).mul_(inverse).mul_(4).mul_(e.add_(1)).add_(gate)
        return gate.mul_(x), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        x, slope = ctx.saved_tensors
        # where a second derivative is wanted, the derivative is a formula of x
        return gradient * (_slope(x) if torch.is_grad_enabled() else slope)


def _slope(x: Tensor) -> Tensor:
    """The derivative, itself differentiable; of large x it is 1, which a product with x itself would miss."""
    bounded = x.clamp(max=LARGEST)
    e = bounded.exp()
    n = e * (e + 2)
    return n / (n + 2) + (bounded * e) * (4 * (e + 1) / (n + 2).square())


def _widened(x: Tensor) -> Tensor:
    """Half precision is computed in float32, as PyTorch's own kernels do."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _decomposed(x: Tensor) -> Tensor:
    wide = _widened(x)
    e = wide.clamp(max=LARGEST).exp()
    n = e * (e + 2)
    return (wide * (n / (n + 2))).to(x.dtype)


EXACT_GELU = torch.nn.GELU().approximate


def _gelu(x: Tensor, *, approximate: str = EXACT_GELU) -> Tensor:
    """(1 + tanh(u)) / 2 is sigmoid(2 u), for which an exponential suffices; the exact one is left to PyTorch."""
    wide = _widened(x)
    return NotImplemented if approximate == EXACT_GELU else (wide * torch.sigmoid(_twice_u(wide))).to(x.dtype)


def _gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = EXACT_GELU) -> Tensor:
    bounded = _widened(x).clamp(-10.0, 10.0)  # beyond, the derivative is 0 or 1, and what it is made of overflows
    e = torch.exp(-_twice_u(bounded))
    gate = 1 / (1 + e)
    slope = gate + bounded * (e * gate) * gate * (TWICE * (1 + 3 * CUBIC * bounded.square()))
    return NotImplemented if approximate == EXACT_GELU else (gradient * slope).to(x.dtype)


TWICE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def _twice_u(x: Tensor) -> Tensor:
    return TWICE * x * (1 + CUBIC * x.square())


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mish.default: _decomposed,
    torch.ops.aten.mish_backward.default: lambda gradient, x: (gradient * _slope(_widened(x))).to(x.dtype),
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.gelu_backward.default: _gelu_backward,
}
"""What a compiled program makes of PyTorch's Mish and approximated GELU, a plugin's included."""
