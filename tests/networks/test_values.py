"""State values, and what the implicit losses make of a sample: found by bisection and by formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dqlab.networks import Layout
from dqlab.networks.values import ChainValueNetwork, ValueNetwork, expectile_loss, exponential_loss, quantile_loss
from dqlab.tools.conformance.made import check_copies, check_independent_rows, check_module, with_moved_parameters

SAMPLE = torch.tensor([-1.0, 0.0, 0.5, 2.0, 4.0], dtype=torch.float64)


def minimiser(loss: Callable[[Tensor], Tensor]) -> float:
    """V where the slope of the mean loss of SAMPLE - V changes sign, by bisection."""
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(SAMPLE - middle).mean(), middle)
        low, high = (low, float(middle)) if slope > 0 else (float(middle), high)
    return (low + high) / 2


def test_expectile_of_a_sample() -> None:
    """tau * sum of what lies above = (1 - tau) * sum of what lies below.

    For tau = 0.7 between 0.5 and 2: 0.7 * (6 - 2V) = 0.3 * (3V + 0.5), so V = 4.05 / 2.3; for 0.5 the mean, 1.1.
    """
    assert math.isclose(minimiser(expectile_loss), 4.05 / 2.3, abs_tol=1e-9)
    assert math.isclose(minimiser(lambda u: expectile_loss(u, tau=0.5)), 1.1, abs_tol=1e-9)


def test_quantile_of_a_sample() -> None:
    """Of five numbers the 0.7-quantile is the fourth (0.7 * 5 = 3.5), the median the third."""
    assert math.isclose(minimiser(quantile_loss), 2.0, abs_tol=1e-9)
    assert math.isclose(minimiser(lambda u: quantile_loss(u, tau=0.5)), 0.5, abs_tol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_exponential_gives_log_mean_exp(alpha: float) -> None:
    wanted = float((alpha * SAMPLE).exp().mean().log()) / alpha
    assert math.isclose(minimiser(lambda u: exponential_loss(u, alpha=alpha)), wanted, abs_tol=1e-9)


def test_losses_by_hand() -> None:
    u = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.allclose(expectile_loss(u, tau=0.9), torch.tensor([0.4, 0.0, 8.1], dtype=torch.float64))
    assert torch.allclose(quantile_loss(u, tau=0.9), torch.tensor([0.2, 0.0, 2.7], dtype=torch.float64))
    wanted = torch.tensor([math.exp(-1) + 1, 1.0, math.exp(1.5) - 1.5], dtype=torch.float64)
    assert torch.allclose(exponential_loss(u, alpha=0.5), wanted)


def test_exponential_goes_on_as_its_tangent() -> None:
    """Beyond the bound: the value and the slope e^2 - 1 of the tangent at 2, times alpha."""
    u = torch.tensor([1.0, 50.0, 1e4], dtype=torch.float64, requires_grad=True)  # alpha u: 2, 100, 20000
    loss = exponential_loss(u, alpha=2.0, largest=2.0)
    (slope,) = torch.autograd.grad(loss[1:].sum(), u)
    assert torch.allclose(loss[0], torch.tensor(math.e**2 - 2, dtype=torch.float64))
    assert torch.allclose(loss[1], torch.tensor(math.e**2 * 99 - 100, dtype=torch.float64))
    assert torch.allclose(slope[1:], torch.full((2,), 2 * (math.e**2 - 1), dtype=torch.float64))


def test_v_is_normalised_where_its_code_does_it() -> None:
    before, after = (ValueNetwork(3, 8, 1, layer_norm=True, norm_after=where, norm_eps=1e-6) for where in (False, True))
    for network, place in ((before, 1), (after, 2)):
        norm = network.layers[place]
        assert isinstance(norm, torch.nn.LayerNorm)
        assert norm.eps == 1e-6
        assert len(network.layers) == 4


def chain_value() -> ChainValueNetwork:
    return ChainValueNetwork(5, 3, n_members=4, hidden_dim=8, depth=2, time_dim=4)


def test_values_along_a_chain_are_what_is_asked_of_networks() -> None:
    """Pure, stackable, traceable, on any device and in any type, row by row; each member has numbers of its own."""
    module = with_moved_parameters(chain_value())
    state, x, t = torch.randn(7, 5).double(), torch.randn(7, 3).double(), torch.arange(7) % 5
    values = module(state, x, t)
    assert values.shape == (4, 7)
    assert bool((values[0] != values[1]).all())
    check_module(module, lambda network, *given: network(*given), state, x, t)
    check_copies(chain_value, module, state, x, t)
    check_independent_rows(lambda *given: module(*given, t[:1].expand(7)).T, state, x)
    layout = Layout.of(module)
    row = layout.flatten(dict(module.named_parameters())).detach()
    assert layout.members is not None, "on a GPU its members are called as one"
    torch.testing.assert_close(layout.bind(row, as_one=True)(state, x, t), values)


def test_values_along_a_chain_depend_on_all_that_they_are_given() -> None:
    module = with_moved_parameters(chain_value())
    state, x, t = torch.randn(2, 5).double(), torch.randn(2, 3).double(), torch.zeros(2)
    for changed in ((state + 1, x, t), (state, x + 1, t), (state, x, t + 1)):
        assert bool((module(*changed) != module(state, x, t)).all())
