"""State values, and what the implicit losses make of a sample: found by bisection and by formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from dqlab.errors import ConfigError
from dqlab.networks import Layout
from dqlab.networks.values import ChainValueNetwork, expectile_loss, exponential_loss, quantile_loss
from dqlab.tools.conformance.made import check_copies, check_independent_rows, check_module, with_moved_parameters

SAMPLE = torch.tensor([-1.0, 0.0, 0.5, 2.0, 4.0], dtype=torch.float64)


def minimiser(loss: Callable[[Tensor], Tensor]) -> float:
    """V where the slope of the mean loss of SAMPLE - V changes sign, by bisection."""
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(SAMPLE - middle).mean(), middle)
        low, high = (low, float(middle.detach())) if slope > 0 else (float(middle.detach()), high)
    return (low + high) / 2


STATISTICS: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (expectile_loss, 4.05 / 2.3),  # between 0.5 and 2: 0.7 * (6 - 2V) = 0.3 * (3V + 0.5)
    (partial(expectile_loss, tau=0.5), 1.1),  # the mean
    (quantile_loss, 2.0),  # of five numbers the fourth: 0.7 * 5 = 3.5
    (partial(quantile_loss, tau=0.5), 0.5),  # the median
    (partial(exponential_loss, alpha=0.5), float((0.5 * SAMPLE).exp().mean().log()) / 0.5),
    (exponential_loss, float(SAMPLE.exp().mean().log())),
]


@pytest.mark.parametrize(("loss", "statistic"), STATISTICS)
def test_which_statistic_of_a_sample_v_becomes(loss: Callable[[Tensor], Tensor], statistic: float) -> None:
    assert minimiser(loss) == pytest.approx(statistic, abs=1e-9)


U = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (expectile_loss(U, tau=0.9), [0.4, 0.0, 8.1]),
        (quantile_loss(U, tau=0.9), [0.2, 0.0, 2.7]),
        (exponential_loss(U, alpha=0.5), [math.exp(-1) + 1, 1.0, math.exp(1.5) - 1.5]),
    ],
)
def test_losses_by_hand(values: Tensor, wanted: list[float]) -> None:
    assert values.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("refused", [partial(exponential_loss, alpha=0.0), partial(quantile_loss, tau=1.0)])
def test_impossible_levels_are_refused(refused: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"not 0\.0|not be 1\.0"):
        refused(U)


def test_exponential_goes_on_as_its_tangent() -> None:
    """Beyond the bound: the value and the slope e^2 - 1 of the tangent at 2, times alpha."""
    u = torch.tensor([1.0, 50.0, 1e4], dtype=torch.float64, requires_grad=True)  # alpha u: 2, 100, 20000
    loss = exponential_loss(u, alpha=2.0, largest=2.0)
    (slope,) = torch.autograd.grad(loss[1:].sum(), u)
    assert loss[:2].tolist() == pytest.approx([math.e**2 - 2, math.e**2 * 99 - 100])
    assert slope[1:].tolist() == pytest.approx(2 * [2 * (math.e**2 - 1)])


def chain_value() -> ChainValueNetwork:
    return ChainValueNetwork(5, 3, n_members=4, hidden_dim=8, depth=2, time_dim=4)


def test_values_along_a_chain_are_what_is_asked_of_networks() -> None:
    """Pure, stackable, traceable, on any device and in any type, row by row; each member has numbers of its own."""
    module = with_moved_parameters(chain_value())
    state, x, t = torch.randn(7, 5).double(), torch.randn(7, 3).double(), torch.arange(7) % 5
    values = module(state, x, t)
    assert values.shape == (4, 7)
    assert bool((values[0] != values[1]).all())
    for changed in ((state + 1, x, t), (state, x + 1, t), (state, x, t + 1)):
        assert bool((module(*changed) != values).all())
    check_module(module, lambda network, *given: network(*given), state, x, t)
    check_copies(chain_value, module, state, x, t)
    check_independent_rows(lambda *given: module(*given, t[:1].expand(7)).T, state, x)
    layout = Layout.of(module)
    row = layout.flatten(dict(module.named_parameters())).detach()
    assert layout.members is not None, "on a GPU its members are called as one"
    torch.testing.assert_close(layout.bind(row, as_one=True)(state, x, t), values)
