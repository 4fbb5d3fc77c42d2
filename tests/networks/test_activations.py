"""Mish and GELU by one exponential, against PyTorch's in float64: value, gradient, Mish's second derivative, packed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from made_updates import counted
from torch.nn import functional

from dqlab.networks.activations import DECOMPOSITIONS, mish, mlp
from dqlab.training.execution.program import trace_program

aten = torch.ops.aten
gelu_tanh = partial(functional.gelu, approximate="tanh")

ENDS = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-38, 20.0, 20.1, 88.0, -88.0, 1e10, -1e10, 3e38, -3e38])
EVERYWHERE = torch.cat([torch.linspace(-110, 110, 400_001), ENDS])


def check_close(
    value: torch.Tensor, slope: torch.Tensor, x: torch.Tensor, tolerance: float, known: Any = functional.mish
) -> None:
    """Value and slope are those of PyTorch's function in float64."""
    wide = x.detach().double().requires_grad_()
    wanted = known(wide)
    (gradient,) = torch.autograd.grad(wanted.sum(), wide)
    wanted = wanted.detach()
    assert float(((value.detach().double() - wanted).abs() / wanted.abs().clamp(min=1)).max()) <= tolerance
    assert float((slope.double() - gradient).abs().max()) <= tolerance


def test_value_and_gradient_over_the_float_range() -> None:
    x = EVERYWHERE.clone().requires_grad_()
    ours = mish(x)
    check_close(ours, torch.autograd.grad(ours.sum(), x)[0], x, 1e-6)
    with torch.no_grad():
        assert torch.equal(mish(EVERYWHERE), ours)
    assert torch.equal(mish(EVERYWHERE.bfloat16()), functional.mish(EVERYWHERE.bfloat16()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2.0**-8)])
def test_what_compiled_programs_contain(dtype: torch.dtype, tolerance: float) -> None:
    """The formulas that stand in for PyTorch's operators, in half precision to half precision's rounding."""
    x = EVERYWHERE.to(dtype)
    value, backward = DECOMPOSITIONS[aten.mish.default], DECOMPOSITIONS[aten.mish_backward.default]
    check_close(value(x), backward(torch.ones_like(x), x), x, tolerance)
    rules = DECOMPOSITIONS[aten.gelu.default], DECOMPOSITIONS[aten.gelu_backward.default]
    value, backward = (partial(rule, approximate="tanh") for rule in rules)
    check_close(value(x), backward(torch.ones_like(x), x), x, tolerance, gelu_tanh)


@pytest.mark.parametrize(("function", "kept"), [(functional.gelu, 1), (gelu_tanh, 0), (functional.mish, 0)])
def test_the_exact_gelu_is_left_to_pytorch(function: Callable[[torch.Tensor], torch.Tensor], kept: int) -> None:
    def program(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        value = function(x)
        return value, torch.autograd.grad(value.sum(), x)[0]

    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace_program(program, [x])
    found = counted(graph)
    assert found["gelu"] == found["gelu_backward"] == kept
    assert not {"mish", "mish_backward", "tanh"} & set(found)
    torch.testing.assert_close(graph(x), program(x), rtol=1e-12, atol=1e-14)


def test_known_values() -> None:
    """mish(0) = 0; at x = ln 2, softplus is ln 3 and tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64).log()
    assert torch.allclose(mish(x), x * torch.tensor([0.0, 0.8], dtype=torch.float64), rtol=1e-15, atol=0)
    assert bool(mish(torch.tensor([torch.nan])).isnan())
    assert float(mish(torch.tensor([torch.inf]))) == torch.inf


def test_second_derivatives_and_packed() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)
    assert torch.autograd.gradgradcheck(mish, x)
    assert torch.autograd.gradcheck(torch.vmap(mish), x)


@pytest.mark.parametrize(
    ("after", "kinds"), [(False, "Linear LayerNorm Tanh Linear"), (True, "Linear Tanh LayerNorm Linear")]
)
def test_perceptrons_are_normalised_before_or_after_their_activations(after: bool, kinds: str) -> None:
    layers = mlp([3, 4, 2], activation="tanh", layer_norm=True, norm_after=after)
    assert [type(layer).__name__ for layer in layers] == kinds.split()
