"""Selection strategies as distributions."""

from __future__ import annotations

import pytest
import torch

from dqlab.selection import Single, SoftmaxQ
from dqlab.testing import make_noise


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_softmax_q_draws_from_the_softmax_of_the_minimum(temperature: float) -> None:
    """Three candidates with min-Q 0, log 2, log 5 (over two critics): probabilities 1, 2, 5 of 8 at temperature 1."""
    lower = torch.tensor([0.0, 2.0, 5.0]).clamp(min=1).log().double()
    q = torch.stack([lower, lower + torch.tensor([9.0, 0.0, 1.0])])
    selection, states = SoftmaxQ(n_candidates=3, temperature=temperature), 40_000
    noise = {name: value[0] for name, value in make_noise(selection.noise(states)).items()}
    index = selection(torch.zeros(3, states, 2), q.unsqueeze(-1).expand(2, 3, states), noise)
    weights = torch.tensor([1.0, 2.0, 5.0]) ** (1 / temperature)
    for candidate, expected in enumerate((weights / weights.sum()).tolist()):
        assert float((index == candidate).double().mean()) == pytest.approx(expected, abs=0.01)


def test_single_takes_the_one_sample() -> None:
    assert Single()(torch.zeros(1, 4, 2), torch.zeros(2, 1, 4), {}).tolist() == [0, 0, 0, 0]
