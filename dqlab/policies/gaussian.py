"""Policies of perceptrons: deterministic; Gaussian, as in SAC or IQL; Gaussian mixtures; and BCQ's autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, check_field
from dqlab.networks.activations import Activation, mlp
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, gumbel, normal
from dqlab.policies.base import Dims, Policy, policies


def log_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2), number by number."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def squash(u: Tensor, bound: float) -> Tensor:
    """bound * tanh(u): any number -> an action in [-bound, bound]."""
    return bound * u.tanh()


def log_slope(u: Tensor, bound: float, floor: float = 0.0) -> Tensor:
    """log of the derivative of `squash`, log(bound (1 - tanh(u)^2 + floor)), without cancellation where floor is 0."""
    if floor:
        return math.log(bound) + torch.log(1 - u.tanh().square() + floor)
    return math.log(bound) + 2 * (math.log(2) - u - softplus(-2 * u))


@dataclass(frozen=True)
class PerceptronPolicy(Policy):
    """A policy whose networks are perceptrons.

    Attributes:
        hidden_dim: width of the hidden layers.
        depth: how many there are.
        activation: after each of them, a name from the `activation` registry or a factory.
    """

    hidden_dim: PositiveInt = 256
    depth: PositiveInt = 2
    activation: Activation = "relu"

    def perceptron(self, inputs: int, outputs: int) -> nn.Sequential:
        """Freshly initialised layers from `inputs` through the hidden ones to `outputs` numbers."""
        return mlp([inputs, *self.depth * [self.hidden_dim], outputs], activation=self.activation)


@policies.register(
    "deterministic",
    source="Fujimoto et al. 2018 (TD3); its losses: TD3+BC (Fujimoto & Gu 2021)",
    cites=("fujimoto2018addressing", "fujimoto2021minimalist"),
)
@dataclass(frozen=True)
class DeterministicPolicy(PerceptronPolicy):
    """One action a state: max_action * tanh of a perceptron; trained by squared errors."""

    def build(self, dims: Dims) -> nn.Module:
        return self.perceptron(dims.state, dims.action)

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors (B,), means over action dimensions."""
        return (self.sample(network, dims, state, noise) - action).square().mean(dim=-1)

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        return squash(network(state), dims.max_action)


class GaussianNetwork(nn.Module):
    """State (B, S) -> mean and log standard deviation side by side, (B, 2A), neither bounded. Where the latter does not
    depend on the state, it is A parameters, at first 0, and the layers give the mean alone.
    """

    def __init__(self, layers: nn.Module, action_dim: int, state_dependent_std: bool) -> None:
        super().__init__()
        self.layers = layers
        self.log_std = None if state_dependent_std else nn.Parameter(torch.zeros(action_dim))

    def forward(self, state: Tensor) -> Tensor:
        out: Tensor = self.layers(state)
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], dim=-1)


@policies.register(
    "gaussian",
    source="Haarnoja et al. 2018, appendix C; unsquashed: Kostrikov et al. 2022 (IQL)",
    cites=("haarnoja2018soft", "kostrikov2022offline"),
)
@dataclass(frozen=True)
class TanhGaussianPolicy(PerceptronPolicy):
    """Actions max_action * tanh(u), u Gaussian given the state; trained by maximum likelihood.

    Attributes:
        squashed: if not, actions are Gaussian around max_action * tanh(mean), and clipped (IQL).
        state_dependent_std: whether the standard deviation is a function of the state (SAC) or of nothing (IQL).
        log_std_min, log_std_max: what its logarithm is clamped to.
    """

    squashed: bool = True
    state_dependent_std: bool = True
    log_std_min: float = -5.0
    log_std_max: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(self.log_std_min < self.log_std_max, self, "log_std_min", "below log_std_max")

    def build(self, dims: Dims) -> nn.Module:
        layers = self.perceptron(dims.state, dims.action * (1 + self.state_dependent_std))
        return GaussianNetwork(layers, dims.action, self.state_dependent_std)

    def distribution(self, network: Network, dims: Dims, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, A) of u before the tanh; if not squashed, of the unclipped action."""
        mean, log_std = network(state).chunk(2, dim=-1)
        std = log_std.clamp(self.log_std_min, self.log_std_max).exp()
        return (mean if self.squashed else squash(mean, dims.max_action)), std

    def log_prob(self, network: Network, dims: Dims, state: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s) (B,) of actions (B, A), with the tanh's change of variables (SAC, appendix C) if squashed.

        Of squashed actions nearer to the bound than 1e-6 of it u is that of the edge (7.25).
        """
        mean, std = self.distribution(network, dims, state)
        if not self.squashed:
            return log_normal(action, mean, std).sum(dim=-1)
        u = (action / dims.max_action).clamp(1e-6 - 1, 1 - 1e-6).atanh()
        return (log_normal(u, mean, std) - log_slope(u, dims.max_action)).sum(dim=-1)

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """-log pi(a|s) (B,), summed over action dimensions."""
        return -self.log_prob(network, dims, state, action)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {"eps": normal(batch, dims.action)}

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) of u = mean + std * eps."""
        mean, std = self.distribution(network, dims, state)
        return self._action(dims, mean + std * noise["eps"])

    def sample_with_log_prob(
        self, network: Network, dims: Dims, state: Tensor, noise: Noise, floor: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Actions (B, A) as `sample` gives them, squashed, and log pi(a|s) (B,); `floor` is that of `log_slope`."""
        mean, std = self.distribution(network, dims, state)
        u = mean + std * noise["eps"]
        return squash(u, dims.max_action), (log_normal(u, mean, std) - log_slope(u, dims.max_action, floor)).sum(dim=-1)

    def _action(self, dims: Dims, u: Tensor) -> Tensor:
        return squash(u, dims.max_action) if self.squashed else u.clamp(-dims.max_action, dims.max_action)

    def act(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """max_action * tanh(mean) (B, A), without noise."""
        return self._action(dims, self.distribution(network, dims, state)[0])


@policies.register(
    "gaussian_mixture", source="Mandlekar et al. 2021 (BC-GMM of robomimic)", cites=("mandlekar2021what",)
)
@dataclass(frozen=True)
class GaussianMixturePolicy(PerceptronPolicy):
    """Actions from a mixture of Gaussians around squashed means, clipped; trained by maximum likelihood.

    As in robomimic, each component's mean is max_action * tanh(.), the density that of the plain Gaussians.

    Attributes:
        n_components: K.
        min_std: added to softplus(.), the standard deviation in units of the action.
    """

    n_components: PositiveInt = 5
    min_std: PositiveFloat = 1e-4

    def build(self, dims: Dims) -> nn.Module:
        """A freshly initialised perceptron: K logits, K means and K standard deviations of A numbers."""
        return self.perceptron(dims.state, self.n_components * (1 + 2 * dims.action))

    def mixture(self, network: Network, dims: Dims, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, K), means (B, K, A) and standard deviations (B, K, A) for states (B, S)."""
        count, size = self.n_components, self.n_components * dims.action
        logits, mean, width = torch.split(network(state), [count, size, size], dim=-1)
        by_component = (-1, count, dims.action)
        means = squash(mean.reshape(by_component), dims.max_action)
        return logits.log_softmax(dim=-1), means, softplus(width.reshape(by_component)) + self.min_std

    def log_prob(self, network: Network, dims: Dims, state: Tensor, action: Tensor) -> Tensor:
        """log pi(a|s) (B,) of actions (B, A): the log-sum-exp over components."""
        log_weight, mean, std = self.mixture(network, dims, state)
        return (log_weight + log_normal(action.unsqueeze(1), mean, std).sum(dim=-1)).logsumexp(dim=-1)

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """-log pi(a|s) (B,), for all action dimensions together."""
        return -self.log_prob(network, dims, state, action)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Gumbel noise `component` (B, K), which draws the component, and standard normal `eps` (B, A) within it."""
        return {"component": gumbel(batch, self.n_components), "eps": normal(batch, dims.action)}

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A); the gradient reaches the drawn component's mean and width, not the weights."""
        log_weight, mean, std = self.mixture(network, dims, state)
        drawn = (log_weight + noise["component"]).argmax(dim=-1)
        action = _component(mean, drawn) + _component(std, drawn) * noise["eps"]
        return action.clamp(-dims.max_action, dims.max_action)

    def act(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """The means (B, A) of the components with the highest weights, without noise."""
        log_weight, mean, _ = self.mixture(network, dims, state)
        return _component(mean, log_weight.argmax(dim=-1))


def _component(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, A) of the components at index (B,), from values (B, K, A)."""
    rows = index.view(-1, 1, 1).expand(-1, 1, values.shape[-1])
    return values.gather(1, rows).squeeze(1)


@policies.register("cvae", source="Fujimoto et al. 2019 (BCQ) and its code", cites=("fujimoto2019off",))
@dataclass(frozen=True)
class CVAEPolicy(PerceptronPolicy):
    """Actions decoded from a Gaussian latent, trained as a conditional variational autoencoder.

    As in BCQ's code the reconstruction error is a mean over action dimensions and the KL divergence a mean (not a
    sum) over latent dimensions; the encoder's log standard deviation is clamped to [-4, 15]; the decoder is squashed.

    Attributes:
        latent_dim: L; 0 for twice the action's dimensions.
        kl_weight: of the KL divergence.
        latent_clip: latents are clipped to +- this to sample.
    """

    hidden_dim: int = 750
    latent_dim: NonNegativeInt = 0
    kl_weight: NonNegativeFloat = 0.5
    latent_clip: PositiveFloat = 0.5

    def build(self, dims: Dims) -> nn.Module:
        latents = self.latent_dim or 2 * dims.action
        encoder = self.perceptron(dims.state + dims.action, 2 * latents)
        return nn.ModuleDict({"encoder": encoder, "decoder": self.perceptron(dims.state + latents, dims.action)})

    def encode(self, network: Network, dims: Dims, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, L) of the latent, given states (B, S) and actions (B, A)."""
        mean, log_std = network.part("encoder")(torch.cat([state, action], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(-4.0, 15.0)

    def decode(self, network: Network, dims: Dims, state: Tensor, latent: Tensor) -> Tensor:
        """Actions (B, A) for states (B, S) and latents (B, L)."""
        return squash(network.part("decoder")(torch.cat([state, latent], dim=-1)), dims.max_action)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {"latent": normal(batch, self.latent_dim or 2 * dims.action)}

    loss_noise = sample_noise

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors of the reconstruction plus kl_weight * KL (B,), means over action and latent dimensions."""
        mean, log_std = self.encode(network, dims, state, action)
        latent = mean + log_std.exp() * noise["latent"]
        error = (self.decode(network, dims, state, latent) - action).square().mean(dim=-1)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std  # to N(0, 1): Kingma & Welling 2014, appendix B
        return error + self.kl_weight * kl.mean(dim=-1)

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A), decoded from clipped latents."""
        return self.decode(network, dims, state, noise["latent"].clamp(-self.latent_clip, self.latent_clip))
