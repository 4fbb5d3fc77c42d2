"""The mixture policy's density, draws and acting."""

from __future__ import annotations

import pytest
import torch
from made_policies import bind, drawn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from dqlab.errors import ConfigError
from dqlab.networks.stacking import Network
from dqlab.policies.base import Dims
from dqlab.policies.gaussian import GaussianMixturePolicy

POLICY = GaussianMixturePolicy(hidden_dim=16, n_components=3)


def network_of(dims: Dims) -> Network:
    torch.manual_seed(0)
    return bind(POLICY.build(dims))


def test_log_probabilities_are_those_of_torch() -> None:
    dims = Dims(4, 3, 2.0)
    network, state = network_of(dims), torch.randn(6, 4, dtype=torch.float64)
    action = torch.rand(6, 3, dtype=torch.float64) * 4 - 2
    log_weight, mean, std = POLICY.mixture(network, dims, state)
    law = MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(mean, std), 1))
    assert torch.allclose(POLICY.log_prob(network, dims, state, action), law.log_prob(action), atol=1e-9)
    assert torch.allclose(POLICY.losses(network, dims, state, action, {}), -law.log_prob(action), atol=1e-9)


def test_components_are_drawn_by_their_weights() -> None:
    """Without noise within them, 20,000 samples of one state are the three means, as often as the weights say."""
    dims, count = Dims(4, 2, 2.0), 20_000
    network, state = network_of(dims), torch.full((count, 4), 0.5, dtype=torch.float64)
    noise = drawn(POLICY.sample_noise(dims, count))
    action = POLICY.sample(network, dims, state, {**noise, "eps": torch.zeros_like(noise["eps"])})
    log_weight, mean, _ = POLICY.mixture(network, dims, state[:1])
    for component in range(3):
        share = float(torch.isclose(action, mean[0, component]).all(dim=-1).double().mean())
        assert share == pytest.approx(float(log_weight[0, component].exp()), abs=0.015)


def test_within_a_component_samples_are_gaussian_and_clipped() -> None:
    dims = Dims(4, 2, 2.0)
    network, state = network_of(dims), torch.zeros(3, 4, dtype=torch.float64)
    _, mean, std = POLICY.mixture(network, dims, state)
    second = torch.tensor([0.0, 1e3, 0.0], dtype=torch.float64).expand(3, 3)
    eps = torch.tensor([[0.1, -0.1], [0.0, 0.5], [100.0, -100.0]], dtype=torch.float64)
    action = POLICY.sample(network, dims, state, {"component": second, "eps": eps})
    assert torch.allclose(action[:2], (mean[:, 1] + std[:, 1] * eps)[:2])
    assert action[2].tolist() == [2.0, -2.0]


def test_acting_takes_the_likeliest_mean() -> None:
    dims = Dims(4, 2, 2.0)
    network, state = network_of(dims), torch.randn(20, 4, dtype=torch.float64) * 3
    log_weight, mean, _ = POLICY.mixture(network, dims, state)
    acted = POLICY.act(network, dims, state, {})
    for row in range(20):
        assert torch.equal(acted[row], mean[row, int(log_weight[row].argmax())])


@pytest.mark.parametrize("fields", [{"n_components": 0}, {"min_std": 0.0}], ids=str)
def test_impossible_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        GaussianMixturePolicy(**fields)
