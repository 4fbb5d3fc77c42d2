"""Densities and draws of Gaussian policies and mixtures, against torch.distributions; BCQ's autoencoder by hand."""

from __future__ import annotations

import math

import pytest
import torch
from made_policies import bind, column
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, TransformedDistribution, transforms

from dqlab.networks import Layout
from dqlab.networks.stacking import Network
from dqlab.policies.base import Dims
from dqlab.policies.gaussian import CVAEPolicy, GaussianMixturePolicy, TanhGaussianPolicy
from dqlab.testing import one_noise

DIMS = Dims(4, 3, 2.0)
STATE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ACTION = torch.rand(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3.8 - 1.9
VARIANTS = [
    {"squashed": squashed, "state_dependent_std": dependent}
    for squashed in (True, False)
    for dependent in (True, False)
]


@pytest.fixture(params=VARIANTS, ids=str)
def policy(request: pytest.FixtureRequest) -> TanhGaussianPolicy:
    torch.manual_seed(0)
    return TanhGaussianPolicy(hidden_dim=16, **request.param)


def test_densities_are_those_of_torch_and_samples_by_their_formula(policy: TanhGaussianPolicy) -> None:
    network = bind(policy.build(DIMS))
    mean, std = policy.distribution(network, DIMS, STATE)
    assert torch.allclose(std, std[:1].expand_as(std)) is not policy.state_dependent_std
    assert policy.state_dependent_std or bool((std == 1).all())
    law = Normal(mean, std)
    if policy.squashed:
        law = TransformedDistribution(law, [transforms.TanhTransform(), transforms.AffineTransform(0.0, 2.0)])
    wanted = law.log_prob(ACTION).sum(dim=-1)
    assert torch.allclose(policy.log_prob(network, DIMS, STATE, ACTION), wanted, atol=1e-9)
    assert torch.allclose(policy.losses(network, DIMS, STATE, ACTION, {}), -wanted, atol=1e-9)
    noise = {name: 3 * value for name, value in one_noise(policy.sample_noise(DIMS, len(STATE))).items()}
    for found, u in (
        (policy.sample(network, DIMS, STATE, noise), mean + std * noise["eps"]),
        (policy.act(network, DIMS, STATE, noise), mean),
    ):
        assert torch.allclose(found, 2 * torch.tanh(u) if policy.squashed else u.clamp(-2, 2))


def test_the_standard_deviation_is_bounded(policy: TanhGaussianPolicy) -> None:
    layout = Layout.of(policy.build(DIMS).double())
    for size in (-1e4, 1e4):
        network = layout.bind(torch.full((layout.size,), size, dtype=torch.float64))
        std = policy.distribution(network, DIMS, STATE)[1]
        assert float(std.min()) >= math.exp(-5) - 1e-12
        assert float(std.max()) <= math.exp(2) + 1e-12
        assert bool(torch.isfinite(policy.losses(network, DIMS, STATE, ACTION, {})).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_at_the_edge_have_finite_losses_and_gradients(policy: TanhGaussianPolicy, dtype: torch.dtype) -> None:
    layout = Layout.of(policy.build(DIMS))
    row = layout.flatten(dict(policy.build(DIMS).named_parameters())).detach().to(dtype).requires_grad_()
    action = torch.tensor([[2.0, -2.0, 2.0]], dtype=dtype)
    loss = policy.losses(layout.bind(row), DIMS, torch.zeros(1, 4, dtype=dtype), action, {}).sum()
    assert bool(torch.isfinite(torch.autograd.grad(loss, row)[0]).all())
    assert float(loss.detach()) < 1e4


def test_squashed_actions_nearer_to_the_bound_than_a_millionth_count_as_at_it() -> None:
    """There u is atanh(1 - 1e-6) = 7.25; a little farther inside the density is that of the action itself."""
    policy = TanhGaussianPolicy(hidden_dim=16)
    network, state = bind(policy.build(DIMS)), torch.zeros(4, 4, dtype=torch.float64)
    shares = 1 - torch.tensor([0.0, 1e-9, 1e-6, 2e-6], dtype=torch.float64)
    u = shares.clamp(max=1 - 1e-6).atanh()
    assert u[:3].tolist() == pytest.approx(3 * [0.5 * math.log(2e6 - 1)])
    mean, std = policy.distribution(network, DIMS, state)
    for sign in (-1, 1):
        at = (sign * u).unsqueeze(-1)
        wanted = (Normal(mean, std).log_prob(at) - (2 * (1 - at.tanh().square())).log()).sum(dim=1)
        action = (2 * sign * shares).unsqueeze(-1).expand(4, 3)
        torch.testing.assert_close(policy.log_prob(network, DIMS, state, action), wanted)


MIXTURE = GaussianMixturePolicy(hidden_dim=16, n_components=3)


@pytest.fixture(scope="module")
def mixture() -> Network:
    torch.manual_seed(0)
    return bind(MIXTURE.build(DIMS))


def test_a_mixtures_log_probabilities_are_those_of_torch(mixture: Network) -> None:
    log_weight, mean, std = MIXTURE.mixture(mixture, DIMS, STATE)
    law = MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(mean, std), 1))
    assert torch.allclose(MIXTURE.log_prob(mixture, DIMS, STATE, ACTION), law.log_prob(ACTION), atol=1e-9)
    assert torch.allclose(MIXTURE.losses(mixture, DIMS, STATE, ACTION, {}), -law.log_prob(ACTION), atol=1e-9)


def test_components_are_drawn_by_their_weights(mixture: Network) -> None:
    """Without noise within them, 20,000 samples of one state are the three means, as often as the weights say."""
    state = torch.full((20_000, 4), 0.5, dtype=torch.float64)
    noise = one_noise(MIXTURE.sample_noise(DIMS, len(state)))
    action = MIXTURE.sample(mixture, DIMS, state, {**noise, "eps": torch.zeros_like(noise["eps"])})
    log_weight, mean, _ = MIXTURE.mixture(mixture, DIMS, state[:1])
    for component in range(3):
        share = float(torch.isclose(action, mean[0, component]).all(dim=-1).double().mean())
        assert share == pytest.approx(float(log_weight[0, component].exp()), abs=0.015)


def test_within_a_component_samples_are_gaussian_and_clipped(mixture: Network) -> None:
    _, mean, std = MIXTURE.mixture(mixture, DIMS, STATE)
    second = torch.tensor([0.0, 1e3, 0.0], dtype=torch.float64).expand(6, 3)
    eps = torch.linspace(-9, 9, 18).double().view(6, 3)
    action = MIXTURE.sample(mixture, DIMS, STATE, {"component": second, "eps": eps})
    free = mean[:, 1] + std[:, 1] * eps
    assert bool((free.abs() > 2).any())
    assert torch.allclose(action, free.clamp(-2, 2))


def test_a_mixture_acts_by_the_likeliest_mean(mixture: Network) -> None:
    state = torch.randn(20, 4, dtype=torch.float64) * 3
    log_weight, mean, _ = MIXTURE.mixture(mixture, DIMS, state)
    acted = MIXTURE.act(mixture, DIMS, state, {})
    assert torch.equal(acted, mean[torch.arange(20), log_weight.argmax(dim=1)])


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


@pytest.mark.parametrize(("log_std", "clamped"), [(-9.0, -4.0), (99.0, 15.0), (1.0, 1.0)])
def test_the_encoder_is_clamped(log_std: float, clamped: float) -> None:
    mean, got = CVAEPolicy(latent_dim=1).encode(autoencoder(log_std), LINE, column(1.0), column(-1.0))
    assert (float(mean), float(got)) == (pytest.approx(0.25), clamped)


def test_sampling_clips_the_latent() -> None:
    policy, state = CVAEPolicy(latent_dim=1), column(1.0, 1.0, 1.0)
    action = policy.sample(autoencoder(), LINE, state, {"latent": column(0.2, 7.0, -7.0)})
    assert action.squeeze().tolist() == pytest.approx([2 * math.tanh(0.5 + z) for z in (0.2, 0.5, -0.5)])
