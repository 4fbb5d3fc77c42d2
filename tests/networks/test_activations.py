"""One-exponential Mish against PyTorch's in float64: value, gradient, second derivative, packed, in half precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dqlab.networks.activations import DECOMPOSITIONS, Mish, mish

EVERYWHERE = torch.cat(
    [
        torch.linspace(-110, 110, 400_001),
        torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-38, 20.0, 20.1, 88.0, -88.0, 1e10, -1e10, 3e38, -3e38]),
    ]
)


def exact(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's Mish and its gradient in float64."""
    wide = x.double().requires_grad_()
    value = functional.mish(wide)
    (gradient,) = torch.autograd.grad(value.sum(), wide)
    return value.detach(), gradient


def test_value_and_gradient_over_the_float_range() -> None:
    value, gradient = exact(EVERYWHERE)
    x = EVERYWHERE.clone().requires_grad_()
    ours = mish(x)
    (slope,) = torch.autograd.grad(ours.sum(), x)
    scale = value.abs().clamp(min=1)
    assert float(((ours.detach().double() - value).abs() / scale).max()) <= 1e-6
    assert float((slope.double() - gradient).abs().max()) <= 1e-6
    with torch.no_grad():
        assert torch.equal(mish(EVERYWHERE), ours.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_compiled_programs_contain(dtype: torch.dtype) -> None:
    """The formulas that stand in for PyTorch's operators, in half precision to half precision's rounding."""
    value, backward = DECOMPOSITIONS.values()
    x = EVERYWHERE.to(dtype)
    wanted, gradient = exact(x)
    tolerance = 1e-6 if dtype == torch.float32 else 2.0**-8
    scale = wanted.abs().clamp(min=1)
    assert float(((value(x).double() - wanted).abs() / scale).max()) <= tolerance
    assert float((backward(torch.ones_like(x), x).double() - gradient).abs().max()) <= tolerance


def test_known_values() -> None:
    """mish(0) = 0; at x = ln 2, softplus is ln 3 and tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8."""
    x = torch.tensor([0.0, 2.0], dtype=torch.float64).log1p()  # 0 and ln 3
    x[1] = torch.tensor(2.0, dtype=torch.float64).log()
    assert torch.allclose(mish(x), torch.tensor([0.0, 0.8 * x[1]], dtype=torch.float64), rtol=1e-15, atol=0)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_second_derivatives_and_packed(seed: int) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)
    assert torch.autograd.gradgradcheck(mish, x)
    assert torch.autograd.gradcheck(torch.vmap(mish), x)


def test_not_a_number_stays_one() -> None:
    assert bool(mish(torch.tensor([float("nan")])).isnan())
    assert float(mish(torch.tensor([float("inf")]))) == float("inf")


def test_as_a_layer_and_in_half_precision() -> None:
    x = torch.randn(5)
    assert torch.equal(Mish()(x), mish(x))
    assert torch.equal(mish(x.bfloat16()), functional.mish(x.bfloat16()))
