"""The diffusion policy with every prediction, weighting and sampler; denoisers with noise of their own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import ROOT
from made_policies import Unprepared
from torch import Tensor

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.config import gin_files
from dqlab.data import Batch
from dqlab.diffusion import samplers
from dqlab.diffusion.predictions import loss_weightings, predictions
from dqlab.diffusion.sampling import DDIM, DPMSolverPP, Heun
from dqlab.errors import ConfigError
from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.networks.stacking import Network
from dqlab.noise import NoiseSpec, uniform
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.runs import Experiment
from dqlab.runs.build import check_experiment
from dqlab.testing import BATCH, DIMS, make_batch, make_noise, one_noise
from dqlab.tools.conformance.made import check_pure, check_traceable
from dqlab.training import Pack

SMALL = partial(MLPDenoiser, hidden_dim=16)


def network_of(policy: DiffusionPolicy, dims: Dims = DIMS) -> Network:
    torch.manual_seed(0)
    module = policy.build(dims).double()
    layout = Layout.of(module)
    return layout.bind(layout.flatten(dict(module.named_parameters())).detach().requires_grad_())


def parts(policy: DiffusionPolicy, seed: int = 0) -> tuple[Network, Tensor, Tensor, dict[str, Tensor]]:
    batch = make_batch(seed=seed)
    return network_of(policy), batch.state[0], batch.action[0], one_noise(policy.loss_noise(DIMS, BATCH), seed)


@pytest.mark.parametrize("weighting", loss_weightings.names())
@pytest.mark.parametrize("prediction", predictions.names())
def test_losses_of_every_prediction_and_weighting(prediction: str, weighting: str) -> None:
    policy = DiffusionPolicy(denoiser=SMALL, prediction=prediction, weighting=weighting)
    network, state, action, noise = parts(policy)
    plain = DiffusionPolicy(denoiser=SMALL, prediction=prediction).losses(network, DIMS, state, action, noise)
    losses = policy.losses(network, DIMS, state, action, noise)
    weights = torch.tensor(policy.loss_weights, dtype=torch.float64)
    assert torch.allclose(losses, plain * weights[noise["t"]])

    def both(state: Tensor, action: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return policy.reconstruct(network, DIMS, state, action, noise)

    check_traceable(both, state, action, noise)


@pytest.mark.parametrize("prediction", predictions.names())
@pytest.mark.parametrize("sampler", samplers.names())
def test_actions_of_every_sampler_and_prediction(sampler: str, prediction: str) -> None:
    """In range, with a gradient, traceable; and what is prepared for a chain of fewer steps changes nothing."""
    fewer = partial(samplers.get(sampler), steps=3)  # type: ignore[call-arg]
    policy = DiffusionPolicy(denoiser=SMALL, sampler=fewer, prediction=prediction)
    network, state, _, _ = parts(policy)
    noise = one_noise(policy.sample_noise(DIMS, BATCH))

    def sample(state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return policy.sample(network, DIMS, state, noise)

    action = check_pure(sample, state, noise)
    assert bool((action.abs() <= 1).all())
    check_traceable(sample, state, noise)
    (gradient,) = torch.autograd.grad(action.sum(), network.parameters["final_layer.weight"])
    assert bool((gradient != 0).any())
    plain = DiffusionPolicy(denoiser=partial(Unprepared, hidden_dim=16), sampler=fewer, prediction=prediction)
    assert torch.allclose(plain.sample(network_of(plain), DIMS, state, noise), action, atol=1e-12)


def test_deterministic_samplers_ask_for_no_noise() -> None:
    policy = DiffusionPolicy(sampler=Heun)
    assert set(policy.sample_noise(DIMS, BATCH)) == {"start"}
    policy = DiffusionPolicy(sampler=partial(DDIM, steps=3, eta=1.0))
    assert policy.sample_noise(DIMS, BATCH)["noise"].shape == (2, BATCH, DIMS.action)


def test_reconstruct_gives_the_losses_and_clipped_starts() -> None:
    """As EDP's code does, no gradient passes where x_0 is clipped, and the whole of it where it is not."""
    policy = DiffusionPolicy(denoiser=SMALL)
    network, state, action, noise = parts(policy)
    losses, start = policy.reconstruct(network, DIMS, state, action, noise)
    assert torch.equal(losses, policy.losses(network, DIMS, state, action, noise))
    noisy = policy.process.diffuse(action, noise["t"], noise["eps"])
    free = policy.process.start_from(noisy, noise["t"], network(noisy, noise["t"], state))
    inside = free.abs() < 1
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(start, free.clamp(-1, 1))
    row = network.parameters["final_layer.weight"]
    (found,), (wanted,) = torch.autograd.grad(start.sum(), row), torch.autograd.grad((free * inside).sum(), row)
    assert torch.allclose(found, wanted)
    assert float(found.abs().max()) > 0


class Dropping(MLPDenoiser):
    """A denoiser that drops some of the state while it is trained."""

    def training_noise(self, batch: int) -> dict[str, NoiseSpec]:
        return {"keep": uniform(batch, DIMS.state)}

    def train_forward(self, noisy: Tensor, t: Tensor, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        output: Tensor = self(noisy, t, torch.where(noise["keep"] < 0.5, 0.0, state))
        return output


def test_a_denoiser_is_given_the_noise_that_it_asks_for_in_training() -> None:
    policy = DiffusionPolicy(denoiser=partial(Dropping, hidden_dim=16))
    before = torch.get_rng_state()
    assert policy.loss_noise(DIMS, BATCH)["denoiser_keep"].shape == (BATCH, DIMS.state)
    assert torch.equal(torch.get_rng_state(), before)
    network, state, action, noise = parts(policy)
    losses = policy.losses(network, DIMS, state, action, noise)
    kept = torch.where(noise["denoiser_keep"] < 0.5, 0.0, state)
    plain = {name: noise[name] for name in ("t", "eps")}
    assert torch.equal(
        losses,
        DiffusionPolicy(denoiser=SMALL).losses(network_of(DiffusionPolicy(denoiser=SMALL)), DIMS, kept, action, plain),
    )
    assert not torch.equal(losses, policy.losses(network, DIMS, state, action, {**noise, "denoiser_keep": 0 * kept}))


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["DDIM.steps=3", "DDIM.stride='log-snr'"], "Unknown stride 'log-snr'. Did you mean 'log_snr'"),
        (["DiffusionPolicy.weighting='minsnr'"], "Unknown loss_weighting 'minsnr'. Did you mean 'min_snr'"),
        (
            ["DiffusionPolicy.schedule='listed'", "listed.betas=(0.1, 0.2)"],
            "listed.betas must be DiffusionPolicy.n_timesteps = 5 numbers",
        ),
    ],
)
def test_mistakes_are_found_before_any_data_is_read(bindings: list[str], message: str) -> None:
    gin_files.load_gin([ROOT / "gin" / "quickstart.gin"], ["DiffusionPolicy.sampler='ddim'", *bindings])
    with pytest.raises(ConfigError, match=message):
        check_experiment(Experiment())


def test_a_pack_of_replicas_updates_with_everything_chosen_otherwise() -> None:
    """Under `vmap` each replica does what it does alone; the program is one graph."""
    chosen = partial(
        DiffusionPolicy, denoiser=SMALL, prediction="v", weighting="min_snr", sampler=partial(DPMSolverPP, steps=3)
    )
    algorithm = BehaviourCloning(policy=chosen)
    packed = Pack([algorithm] * 2, DIMS, [3, 4], dtype=torch.float64)
    batch, noise = make_batch(), make_noise(algorithm.update_noise(DIMS, BATCH))
    alone = Pack([algorithm], DIMS, [4], dtype=torch.float64)
    alone.update(batch, noise)
    packed.update(
        Batch(*(value.expand(2, *value.shape[1:]) for value in batch)), {k: torch.cat([v, v]) for k, v in noise.items()}
    )
    for name, value in alone.weights(0)["actor"].items():
        assert torch.allclose(packed.weights(1)["actor"][name], value, atol=1e-9), name
    drawn = make_noise(algorithm.act_noise(DIMS, BATCH))
    both = packed.act(batch.state.expand(2, -1, -1), {k: torch.cat([v, v]) for k, v in drawn.items()})
    assert torch.allclose(both[1:], alone.act(batch.state, drawn), atol=1e-9)
