"""Densities and draws of Gaussian policies and mixtures, against torch.distributions; BCQ's autoencoder by hand."""

from __future__ import annotations

import math

import pytest
import torch
from made_policies import bind, column, drawn
from torch import nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from dqlab.networks import Layout
from dqlab.networks.stacking import Network
from dqlab.policies.base import Dims
from dqlab.policies.gaussian import CVAEPolicy, GaussianMixturePolicy, TanhGaussianPolicy

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


MIXTURE = GaussianMixturePolicy(hidden_dim=16, n_components=3)


def mixture_network(dims: Dims) -> Network:
    torch.manual_seed(0)
    return bind(MIXTURE.build(dims))


def test_a_mixtures_log_probabilities_are_those_of_torch() -> None:
    dims = Dims(4, 3, 2.0)
    network, state = mixture_network(dims), torch.randn(6, 4, dtype=torch.float64)
    action = torch.rand(6, 3, dtype=torch.float64) * 4 - 2
    log_weight, mean, std = MIXTURE.mixture(network, dims, state)
    law = MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(mean, std), 1))
    assert torch.allclose(MIXTURE.log_prob(network, dims, state, action), law.log_prob(action), atol=1e-9)
    assert torch.allclose(MIXTURE.losses(network, dims, state, action, {}), -law.log_prob(action), atol=1e-9)


def test_components_are_drawn_by_their_weights() -> None:
    """Without noise within them, 20,000 samples of one state are the three means, as often as the weights say."""
    dims, count = Dims(4, 2, 2.0), 20_000
    network, state = mixture_network(dims), torch.full((count, 4), 0.5, dtype=torch.float64)
    noise = drawn(MIXTURE.sample_noise(dims, count))
    action = MIXTURE.sample(network, dims, state, {**noise, "eps": torch.zeros_like(noise["eps"])})
    log_weight, mean, _ = MIXTURE.mixture(network, dims, state[:1])
    for component in range(3):
        share = float(torch.isclose(action, mean[0, component]).all(dim=-1).double().mean())
        assert share == pytest.approx(float(log_weight[0, component].exp()), abs=0.015)


def test_within_a_component_samples_are_gaussian_and_clipped() -> None:
    dims = Dims(4, 2, 2.0)
    network, state = mixture_network(dims), torch.zeros(3, 4, dtype=torch.float64)
    _, mean, std = MIXTURE.mixture(network, dims, state)
    second = torch.tensor([0.0, 1e3, 0.0], dtype=torch.float64).expand(3, 3)
    eps = torch.tensor([[0.1, -0.1], [0.0, 0.5], [100.0, -100.0]], dtype=torch.float64)
    action = MIXTURE.sample(network, dims, state, {"component": second, "eps": eps})
    assert torch.allclose(action[:2], (mean[:, 1] + std[:, 1] * eps)[:2])
    assert action[2].tolist() == [2.0, -2.0]


def test_a_mixture_acts_by_the_likeliest_mean() -> None:
    dims = Dims(4, 2, 2.0)
    network, state = mixture_network(dims), torch.randn(20, 4, dtype=torch.float64) * 3
    log_weight, mean, _ = MIXTURE.mixture(network, dims, state)
    acted = MIXTURE.act(network, dims, state, {})
    for row in range(20):
        assert torch.equal(acted[row], mean[row, int(log_weight[row].argmax())])


LINE = Dims(1, 1, 2.0)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def autoencoder(log_std: float = 0.0) -> Network:
    """Latent of one dimension: mean 0.5 s + 0.25 a, a given log std; decoder tanh(0.5 s + z)."""
    encoder = linear([[0.5, 0.25], [0.0, 0.0]], [0.0, log_std])
    return bind(nn.ModuleDict({"encoder": encoder, "decoder": linear([[0.5, 1.0]], [0.0])}))


def test_the_autoencoders_losses_by_hand() -> None:
    """s = 1, a = -1: mean 0.25; with std 0.5 and noise 2 the latent is 1.25 and the action 2 tanh(1.75)."""
    policy = CVAEPolicy(latent_dim=1)
    noise = {"latent": column(2.0, 0.0)}
    losses = policy.losses(autoencoder(math.log(0.5)), LINE, column(1.0, 0.0), column(-1.0, 0.0), noise)
    kl = 0.5 * (0.25**2 + 0.25 - 1) - math.log(0.5)
    assert float(losses[0]) == pytest.approx((2 * math.tanh(1.75) + 1) ** 2 + 0.5 * kl)
    assert float(losses[1]) == pytest.approx(0.5 * (0.5 * (0.25 - 1) - math.log(0.5)))


def test_errors_and_divergence_are_means_over_their_dimensions() -> None:
    """Weights of zero: error mean(0.3^2, 0.9^2) over 2 action dimensions, KL 0 but for one latent of 4 with mean 1."""
    encoder, decoder = linear(8 * [[0.0] * 3], [1.0] + 7 * [0.0]), linear(2 * [[0.0] * 5], 2 * [0.0])
    zero = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    dims, policy = Dims(1, 2), CVAEPolicy()
    noise = drawn(policy.loss_noise(dims, 1))
    action = torch.tensor([[0.3, -0.9]], dtype=torch.float64)
    loss = policy.losses(bind(zero), dims, column(1.0), action, noise)
    assert float(loss) == pytest.approx((0.09 + 0.81) / 2 + 0.5 * 0.5 / 4)


@pytest.mark.parametrize(("log_std", "clamped"), [(-9.0, -4.0), (99.0, 15.0), (1.0, 1.0)])
def test_the_encoder_is_clamped(log_std: float, clamped: float) -> None:
    mean, got = CVAEPolicy(latent_dim=1).encode(autoencoder(log_std), LINE, column(1.0), column(-1.0))
    assert float(mean) == pytest.approx(0.25)
    assert float(got) == clamped


def test_sampling_clips_the_latent() -> None:
    policy, state = CVAEPolicy(latent_dim=1), column(1.0, 1.0, 1.0)
    action = policy.sample(autoencoder(), LINE, state, {"latent": column(0.2, 7.0, -7.0)})
    assert action.squeeze().tolist() == pytest.approx([2 * math.tanh(0.5 + z) for z in (0.2, 0.5, -0.5)])
    assert torch.equal(action, policy.decode(autoencoder(), LINE, state, column(0.2, 0.5, -0.5)))


def test_twice_as_many_latents_as_actions_unless_said() -> None:
    for policy, latents in ((CVAEPolicy(), 6), (CVAEPolicy(latent_dim=2), 2)):
        assert policy.sample_noise(Dims(4, 3), 8)["latent"].shape == (8, latents)
        assert policy.loss_noise(Dims(4, 3), 8)["latent"].shape == (8, latents)
