"""The Gaussian policy's densities against numerical integrals and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from made_policies import bind, drawn
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from dqlab.errors import ConfigError
from dqlab.networks import Layout
from dqlab.policies.base import Dims
from dqlab.policies.gaussian import TanhGaussianPolicy

DIMS = Dims(4, 3, 2.0)
VARIANTS = [
    {"squashed": squashed, "state_dependent_std": dependent}
    for squashed in (True, False)
    for dependent in (True, False)
]


@pytest.fixture(params=VARIANTS, ids=str)
def policy(request: pytest.FixtureRequest) -> TanhGaussianPolicy:
    torch.manual_seed(0)
    return TanhGaussianPolicy(hidden_dim=16, **request.param)


def batch(dims: Dims, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(count, dims.state, generator=generator, dtype=torch.float64)
    action = torch.rand(count, dims.action, generator=generator, dtype=torch.float64) * 1.9 - 0.95
    return state, action * dims.max_action


def test_log_probabilities_are_those_of_torch(policy: TanhGaussianPolicy) -> None:
    network, (state, action) = bind(policy.build(DIMS)), batch(DIMS)
    mean, std = policy.distribution(network, DIMS, state)
    law = Normal(mean, std)
    if policy.squashed:
        law = TransformedDistribution(law, [TanhTransform(), AffineTransform(0.0, DIMS.max_action)])
    expected = law.log_prob(action).sum(dim=-1)
    assert torch.allclose(policy.log_prob(network, DIMS, state, action), expected, atol=1e-9)
    assert torch.allclose(policy.losses(network, DIMS, state, action, {}), -expected, atol=1e-9)


def test_samples_by_their_formula(policy: TanhGaussianPolicy) -> None:
    network, (state, _) = bind(policy.build(DIMS)), batch(DIMS)
    mean, std = policy.distribution(network, DIMS, state)
    noise = drawn(policy.sample_noise(DIMS, len(state)))
    u = mean + std * noise["eps"]
    expected = 2 * torch.tanh(u) if policy.squashed else u.clamp(-2, 2)
    assert torch.allclose(policy.sample(network, DIMS, state, noise), expected)


def test_acting_is_the_squashed_mean(policy: TanhGaussianPolicy) -> None:
    network, (state, _) = bind(policy.build(DIMS)), batch(DIMS)
    mean = policy.distribution(network, DIMS, state)[0]
    acted = policy.act(network, DIMS, state, drawn(policy.sample_noise(DIMS, len(state))))
    assert torch.allclose(acted, 2 * torch.tanh(mean) if policy.squashed else mean)
    assert float(acted.abs().max()) < 2


def test_what_the_standard_deviation_depends_on(policy: TanhGaussianPolicy) -> None:
    network, (state, _) = bind(policy.build(DIMS)), batch(DIMS)
    std = policy.distribution(network, DIMS, state)[1]
    assert torch.allclose(std, std[:1].expand_as(std)) is not policy.state_dependent_std
    if not policy.state_dependent_std:
        assert torch.equal(std, torch.ones_like(std))  # exp(0)


def test_the_standard_deviation_is_bounded(policy: TanhGaussianPolicy) -> None:
    layout = Layout.of(policy.build(DIMS).double())
    state, action = batch(DIMS)
    for size in (-1e4, 1e4):
        network = layout.bind(torch.full((layout.size,), size, dtype=torch.float64))
        std = policy.distribution(network, DIMS, state)[1]
        assert float(std.min()) >= math.exp(-5) - 1e-12
        assert float(std.max()) <= math.exp(2) + 1e-12
        assert bool(torch.isfinite(policy.losses(network, DIMS, state, action, {})).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_at_the_edge_have_finite_losses_and_gradients(policy: TanhGaussianPolicy, dtype: torch.dtype) -> None:
    layout = Layout.of(policy.build(DIMS))
    row = layout.flatten(dict(policy.build(DIMS).named_parameters())).detach().to(dtype).requires_grad_()
    action = torch.tensor([[2.0, -2.0, 2.0]], dtype=dtype)
    loss = policy.losses(layout.bind(row), DIMS, torch.zeros(1, 4, dtype=dtype), action, {}).sum()
    assert bool(torch.isfinite(torch.autograd.grad(loss, row)[0]).all())
    assert float(loss.detach()) < 1e4


def test_impossible_fields_are_refused() -> None:
    for fields in ({"log_std_min": 3.0}, {"depth": 0}, {"hidden_dim": 0}, {"activation": "sine waves"}):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            TanhGaussianPolicy(**fields)
