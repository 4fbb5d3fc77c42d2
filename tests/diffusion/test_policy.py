"""The diffusion policy with every prediction, weighting and sampler; denoisers with noise of their own."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import ROOT
from made_policies import Unprepared, bind
from torch import Tensor, nn

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.config import gin_files
from dqlab.config.registry import RegistryEntry
from dqlab.diffusion import samplers
from dqlab.diffusion.predictions import loss_weightings, predictions
from dqlab.diffusion.sampling import DPMSolverPP
from dqlab.errors import ConfigError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.stacking import Network
from dqlab.noise import NoiseSpec, uniform
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy, EDMPolicy
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_experiment
from dqlab.testing import BATCH, DIMS, make_batch, one_noise
from dqlab.tools.conformance.made import check_pure, check_traceable
from dqlab.tools.conformance.networks import check_algorithm

SMALL = partial(MLPDenoiser, hidden_dim=16)
STATE, ACTION = make_batch().state[0], make_batch().action[0]


def network_of(policy: DiffusionPolicy) -> Network:
    """Its parameters get gradients, and are the same at every call."""
    torch.manual_seed(0)
    network = bind(policy.build(DIMS))
    for parameter in network.parameters.values():
        parameter.requires_grad_()
    return network


@pytest.mark.parametrize("prediction", predictions.names())
def test_losses_of_every_prediction_and_weighting(prediction: str) -> None:
    plain = DiffusionPolicy(denoiser=SMALL, prediction=prediction)
    network, noise = network_of(plain), one_noise(plain.loss_noise(DIMS, BATCH))
    losses = plain.losses(network, DIMS, STATE, ACTION, noise)
    for weighting in loss_weightings.names():
        policy = DiffusionPolicy(denoiser=SMALL, prediction=prediction, weighting=weighting)
        weights = torch.tensor(policy.loss_weights, dtype=torch.float64)
        assert torch.allclose(policy.losses(network, DIMS, STATE, ACTION, noise), losses * weights[noise["t"]])
        check_traceable(partial(policy.reconstruct, network, DIMS), STATE, ACTION, noise)


@pytest.mark.parametrize("prediction", predictions.names())
@pytest.mark.parametrize("sampler", samplers.names())
def test_actions_of_every_sampler_and_prediction(sampler: str, prediction: str) -> None:
    """In range, with a gradient, traceable; and what is prepared for a chain of fewer steps changes nothing."""
    fewer = partial(samplers.get(sampler), steps=3)  # type: ignore[call-arg]
    policy = DiffusionPolicy(denoiser=SMALL, sampler=fewer, prediction=prediction)
    network, noise = network_of(policy), one_noise(policy.sample_noise(DIMS, BATCH))
    assert ("noise" in noise) == (policy.resolved_sampler.draws(policy.process) > 0)
    sample = partial(policy.sample, network, DIMS)
    action = check_pure(sample, STATE, noise)
    assert bool((action.abs() <= 1).all())
    check_traceable(sample, STATE, noise)
    (gradient,) = torch.autograd.grad(action.sum(), network.parameters["final_layer.weight"])
    assert bool((gradient != 0).any())
    plain = DiffusionPolicy(denoiser=partial(Unprepared, hidden_dim=16), sampler=fewer, prediction=prediction)
    assert torch.allclose(plain.sample(network_of(plain), DIMS, STATE, noise), action, atol=1e-12)


def test_reconstruct_gives_the_losses_and_clipped_starts() -> None:
    """As EDP's code does, no gradient passes where x_0 is clipped, and the whole of it where it is not."""
    policy = DiffusionPolicy(denoiser=SMALL)
    network, noise = network_of(policy), one_noise(policy.loss_noise(DIMS, BATCH))
    losses, start = policy.reconstruct(network, DIMS, STATE, ACTION, noise)
    assert torch.equal(losses, policy.losses(network, DIMS, STATE, ACTION, noise))
    noisy = policy.process.diffuse(ACTION, noise["t"], noise["eps"])
    free = policy.process.start_from(noisy, noise["t"], network(noisy, noise["t"], STATE))
    inside = free.abs() < 1
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(start, free.clamp(-1, 1))
    row = network.parameters["final_layer.weight"]
    found, wanted = (torch.autograd.grad(each.sum(), row)[0] for each in (start, free * inside))
    assert torch.allclose(found, wanted)
    assert float(found.abs().max()) > 0


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.6))

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.slope * x + 0.1 * t.unsqueeze(-1)


def test_an_edm_samples_by_heuns_method_between_its_noise_levels() -> None:
    """Karras et al. 2022, algorithm 1, with the preconditioning of table 1 (sigma_data 0.5)."""
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    levels = [(low + i / 3 * (high - low)) ** 7 for i in range(4)]

    def data(x: Tensor, sigma: float) -> Tensor:
        total = sigma**2 + 0.25
        output = 0.6 * x / total**0.5 + 0.1 * math.log(sigma) / 4
        return 0.25 / total * x + sigma * 0.5 / total**0.5 * output

    start = ACTION[:1]
    x = start * (1 + levels[-1] ** 2) ** 0.5
    for now, then in pairwise(reversed(levels)):
        slope = (x - data(x, now)) / now
        end = x + (then - now) * slope
        x = x + (then - now) * (slope + (end - data(end, then)) / then) / 2
    wide = Dims(DIMS.state, DIMS.action, 1e9)
    action = EDMPolicy(n_steps=4).sample(bind(Affine()), wide, STATE[:1], {"start": start})
    torch.testing.assert_close(action, data(x, levels[0]), rtol=1e-6, atol=1e-6)


class Dropping(MLPDenoiser):
    """A denoiser that drops some of the state while it is trained."""

    def training_noise(self, batch: int) -> dict[str, NoiseSpec]:
        return {"keep": uniform(batch, DIMS.state)}

    def train_forward(self, noisy: Tensor, t: Tensor, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        output: Tensor = self(noisy, t, torch.where(noise["keep"] < 0.5, 0.0, state))
        return output


def test_a_denoiser_is_given_the_noise_that_it_asks_for_in_training() -> None:
    policy, plain = DiffusionPolicy(denoiser=partial(Dropping, hidden_dim=16)), DiffusionPolicy(denoiser=SMALL)
    before = torch.get_rng_state()
    noise = one_noise(policy.loss_noise(DIMS, BATCH))
    assert torch.equal(torch.get_rng_state(), before)
    kept = torch.where(noise["denoiser_keep"] < 0.5, 0.0, STATE)
    wanted = plain.losses(network_of(plain), DIMS, kept, ACTION, {name: noise[name] for name in ("t", "eps")})
    assert torch.equal(policy.losses(network_of(policy), DIMS, STATE, ACTION, noise), wanted)


def test_mistakes_are_found_before_any_data_is_read() -> None:
    gin_files.load_gin(
        [ROOT / "gin" / "quickstart.gin"], ["DiffusionPolicy.schedule='listed'", "listed.betas=(0.1, 0.2)"]
    )
    with pytest.raises(ConfigError, match=r"listed\.betas must be DiffusionPolicy\.n_timesteps = 5 numbers"):
        check_experiment(Experiment())


def test_a_policy_with_everything_chosen_otherwise_conforms() -> None:
    """Packed as alone, resumed, traced, and free of gradients that are not its own."""
    sampler = partial(DPMSolverPP, steps=3)
    chosen = partial(DiffusionPolicy, denoiser=SMALL, prediction="v", weighting="min_snr", sampler=sampler)
    check_algorithm(RegistryEntry("made", partial(BehaviourCloning, policy=chosen)))
