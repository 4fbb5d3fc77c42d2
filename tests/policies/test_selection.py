"""Selection strategies: worked out by hand, as distributions over many states, and by defining identities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dqlab.policies.selection import (
    Argmax,
    IDQLExpectile,
    IDQLExponential,
    IDQLQuantile,
    ImplicitPolicy,
    MeanOfBest,
    Selection,
    SoftmaxQ,
    TopK,
    take_candidates,
)
from dqlab.testing import one_noise

STATES = 40_000
TWO_CRITICS = torch.tensor([[9.0, 1.0, 5.0, 2.0], [0.0, 3.0, 4.0, 2.5]]).double()
"""Minimum over the two: 0, 1, 4, 2, so the order is 2, 3, 1, 0."""
LOWER = torch.tensor([0.0, math.log(2), math.log(5)]).double()
LOGARITHMS = torch.stack([LOWER, LOWER + torch.tensor([9.0, 0.0, 1.0])])
"""Minimum over the two: 0, log 2, log 5."""
ADVANTAGES = 3 + torch.tensor([[-1.0, 0.5, 1.0, 2.0], [0.0, 0.5, 9.0, 2.0]]).double()
"""Minimum over the two: -1, 0.5, 1 and 2 more than a learned V of 3."""
SHARES: list[tuple[Selection, Tensor, list[float]]] = [
    (SoftmaxQ(n_candidates=3), LOGARITHMS, [1, 2, 5]),
    (SoftmaxQ(n_candidates=3, temperature=0.5), LOGARITHMS, [1, 4, 25]),
    (TopK(n_candidates=4, k=1), TWO_CRITICS, [0, 0, 1, 0]),
    (TopK(n_candidates=4, k=3), TWO_CRITICS, [0, 1, 1, 1]),
    (IDQLExpectile(n_candidates=4, tau=0.8), ADVANTAGES, [0.2, 0.8, 0.8, 0.8]),
    (IDQLQuantile(n_candidates=4, tau=0.8), ADVANTAGES, [0.2 / 1, 0.8 / 0.5, 0.8 / 1, 0.8 / 2]),
    (
        IDQLExponential(n_candidates=4, alpha=2.0),
        ADVANTAGES,
        [(1 - math.exp(-2)) / 1, (math.e - 1) / 0.5, (math.exp(2) - 1) / 1, (math.exp(4) - 1) / 2],
    ),
]


@pytest.mark.parametrize(("selection", "q", "weights"), SHARES, ids=lambda part: str(part) if callable(part) else "")
def test_how_often_each_candidate_is_taken(selection: Selection, q: Tensor, weights: list[float]) -> None:
    """In many states in which the candidates are worth q (M, C), and the states 3 where V is learned."""
    count, repeated = q.shape[1], q.unsqueeze(-1).expand(-1, -1, STATES)
    value = torch.full((STATES,), 3.0, dtype=torch.float64)
    index = selection(torch.zeros(count, STATES, 2), repeated, one_noise(selection.noise(STATES)), value)
    found = index.bincount(minlength=count) / STATES
    assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=0.01)


def test_argmax_takes_the_highest_minimum() -> None:
    q = torch.stack([TWO_CRITICS, TWO_CRITICS.flip(1)], dim=-1)  # (2, 4, 2): a second state, in reverse
    assert Argmax(n_candidates=4)(torch.zeros(4, 2, 1), q, {}).tolist() == [2, 1]


def test_top_k_goes_by_rank_whatever_the_order_of_the_candidates() -> None:
    selection, noise = TopK(n_candidates=4, k=3), {"rank": torch.tensor([0, 1, 2])}
    q = TWO_CRITICS.unsqueeze(-1).expand(-1, -1, 3)
    assert selection(torch.zeros(4, 3, 1), q, noise).tolist() == [2, 3, 1]
    assert selection(torch.zeros(4, 3, 1), q.flip(1), noise).tolist() == [1, 0, 2]


@pytest.mark.parametrize(("k", "action"), [(2, [0.3, -0.2]), (1, [0.2, -0.6])])
def test_mean_of_best_by_hand(k: int, action: list[float]) -> None:
    """The two best of four candidates are 2 and 3; the action is the mean of theirs."""
    candidates = torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.2, -0.6], [0.4, 0.2]]).unsqueeze(1)
    index = MeanOfBest(n_candidates=4, k=k)(candidates, TWO_CRITICS.unsqueeze(-1), {})
    assert index.tolist() == [[2], [3]][:k]
    assert take_candidates(candidates, index).squeeze(0).tolist() == pytest.approx(action)


VALUES = st.lists(st.floats(-50, 50), min_size=1, max_size=12).map(lambda q: torch.tensor(q).double().unsqueeze(-1))
TAUS = st.floats(0.01, 0.99)


@given(q=VALUES, tau=TAUS)
def test_expectiles_balance_what_lies_above_and_below(q: Tensor, tau: float) -> None:
    u = q - IDQLExpectile(tau=tau).value_of(q)
    assert float(tau * u.clamp(min=0).sum()) == pytest.approx(float((1 - tau) * (-u).clamp(min=0).sum()), abs=1e-9)


@given(q=VALUES, tau=TAUS)
def test_quantiles_are_those_of_torch(q: Tensor, tau: float) -> None:
    assert torch.allclose(IDQLQuantile(tau=tau).value_of(q), torch.quantile(q, tau, dim=0), atol=1e-9)


@given(q=VALUES, alpha=st.floats(0.01, 5))
def test_exponential_values_are_stationary(q: Tensor, alpha: float) -> None:
    """The derivative of mean(exp(alpha u) - alpha u) with respect to V is 0."""
    u = q - IDQLExponential(alpha=alpha).value_of(q)
    assert float((alpha * u).exp().mean()) == pytest.approx(1.0, rel=1e-6)


IMPLICIT = pytest.mark.parametrize("make", [IDQLExpectile, IDQLQuantile, IDQLExponential])


@IMPLICIT
def test_v_is_the_mean_of_q_under_the_implicit_policy(make: Callable[..., ImplicitPolicy]) -> None:
    """Hansen-Estruch et al. 2023, section 4: what the weights are made for. Ten values, so that 7 lie below 0.7."""
    selection, q = make(n_candidates=10), torch.randn(10, 5, dtype=torch.float64)
    probability = selection.log_weights(q, None).softmax(dim=0)
    assert torch.allclose((probability * q).sum(dim=0), selection.value_of(q), atol=1e-6)


@IMPLICIT
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_finite_everywhere(make: Callable[..., ImplicitPolicy], dtype: torch.dtype) -> None:
    selection = make(n_candidates=9)
    u = torch.tensor([-1e8, -1e3, -1.0, -1e-9, 0.0, 1e-9, 1.0, 1e3, 1e8], dtype=dtype).unsqueeze(-1)
    assert bool(torch.isfinite(selection.log_weights(u, torch.zeros(1, dtype=dtype))).all())
    for equal in (0.0, 1e5):  # all candidates alike: none is preferred
        weights = selection.log_weights(torch.full((9, 1), equal, dtype=dtype), None)
        assert torch.allclose(weights, weights[:1].expand_as(weights))
        assert bool(torch.isfinite(weights).all())


def test_weights_near_an_advantage_of_zero() -> None:
    """|exp(x) - 1| / |x| is 1 + x / 2 there; the quantile's weight stops growing at its floor."""
    x = torch.tensor([-1e-3, -1e-7, 0.0, 1e-7, 1e-3], dtype=torch.float64)
    assert torch.allclose(IDQLExponential().log_ratio(x), x / 2, atol=1e-6)
    ratio = IDQLQuantile(tau=0.5, floor=0.01).log_ratio(torch.tensor([0.0, 0.01, -0.01, 0.02]).double())
    assert ratio.exp().tolist() == pytest.approx([50.0, 50.0, 50.0, 25.0])
