"""BCQ's autoencoder with linear networks, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from made_policies import bind, column, drawn
from torch import nn
from torch.distributions import Normal, kl_divergence

from dqlab.networks.stacking import Network
from dqlab.policies.base import Dims
from dqlab.policies.cvae import CVAENetwork, CVAEPolicy, kl_to_standard

DIMS = Dims(1, 1, 2.0)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def network_of(log_std: float = 0.0) -> Network:
    """Latent of one dimension: mean 0.5 s + 0.25 a, a given log std; decoder tanh(0.5 s + z)."""
    encoder = linear([[0.5, 0.25], [0.0, 0.0]], [0.0, log_std])
    return bind(CVAENetwork(encoder, linear([[0.5, 1.0]], [0.0])))


def test_losses_by_hand() -> None:
    """s = 1, a = -1: mean 0.25; with std 0.5 and noise 2 the latent is 1.25 and the action 2 tanh(1.75)."""
    policy = CVAEPolicy(latent_dim=1)
    noise = {"latent": column(2.0, 0.0)}
    losses = policy.losses(network_of(math.log(0.5)), DIMS, column(1.0, 0.0), column(-1.0, 0.0), noise)
    kl = 0.5 * (0.25**2 + 0.25 - 1) - math.log(0.5)
    assert float(losses[0]) == pytest.approx((2 * math.tanh(1.75) + 1) ** 2 + 0.5 * kl)
    assert float(losses[1]) == pytest.approx(0.5 * (0.5 * (0.25 - 1) - math.log(0.5)))


def test_errors_and_divergence_are_means_over_their_dimensions() -> None:
    """Weights of zero: error mean(0.3^2, 0.9^2) over 2 action dimensions, KL 0 but for one latent of 4 with mean 1."""
    zero = CVAENetwork(linear(4 * [[0.0] * 3] + 4 * [[0.0] * 3], [1.0] + 7 * [0.0]), linear(2 * [[0.0] * 5], 2 * [0.0]))
    dims, policy = Dims(1, 2), CVAEPolicy()
    noise = drawn(policy.loss_noise(dims, 1))
    action = torch.tensor([[0.3, -0.9]], dtype=torch.float64)
    loss = policy.losses(bind(zero), dims, column(1.0), action, noise)
    assert float(loss) == pytest.approx((0.09 + 0.81) / 2 + 0.5 * 0.5 / 4)


def test_divergence_is_that_of_torch() -> None:
    mean, log_std = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(torch.zeros(20).double(), torch.ones(20).double()))
    assert torch.allclose(kl_to_standard(mean, log_std), expected)


@pytest.mark.parametrize(("log_std", "clamped"), [(-9.0, -4.0), (99.0, 15.0), (1.0, 1.0)])
def test_the_encoder_is_clamped(log_std: float, clamped: float) -> None:
    mean, got = CVAEPolicy(latent_dim=1).encode(network_of(log_std), DIMS, column(1.0), column(-1.0))
    assert float(mean) == pytest.approx(0.25)
    assert float(got) == clamped


def test_sampling_clips_the_latent() -> None:
    policy, state = CVAEPolicy(latent_dim=1), column(1.0, 1.0, 1.0)
    action = policy.sample(network_of(), DIMS, state, {"latent": column(0.2, 7.0, -7.0)})
    assert action.squeeze().tolist() == pytest.approx([2 * math.tanh(0.5 + z) for z in (0.2, 0.5, -0.5)])
    assert torch.equal(action, policy.decode(network_of(), DIMS, state, column(0.2, 0.5, -0.5)))


def test_twice_as_many_latents_as_actions_unless_said() -> None:
    for policy, latents in ((CVAEPolicy(), 6), (CVAEPolicy(latent_dim=2), 2)):
        assert policy.sample_noise(Dims(4, 3), 8)["latent"].shape == (8, latents)
        assert policy.loss_noise(Dims(4, 3), 8)["latent"].shape == (8, latents)
