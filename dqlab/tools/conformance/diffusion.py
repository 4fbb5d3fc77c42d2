"""What noise schedules, strides, predictions, loss weightings and samplers must do."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from dqlab.config.registry import RegistryEntry
from dqlab.diffusion import Process
from dqlab.diffusion.predictions import LossWeighting, Prediction, predictions
from dqlab.diffusion.sampling import ChainNoise, Sampler
from dqlab.diffusion.schedules import NoiseSchedule, Stride, build_betas, visited_timesteps
from dqlab.errors import ConfigError
from dqlab.tools.conformance.made import BATCH, check_function, check_pure, check_shape, make_batch

LENGTHS = (*range(1, 21), 50, 200, 1000)
"""Numbers of diffusion steps N that are tried."""
FAR = 1e6
"""A bound of the action range that nothing reaches."""


def check_noise_schedule(entry: RegistryEntry[NoiseSchedule]) -> None:
    """Betas of the right shape inside (0, 1), abar falling, the same at every call; for at least one N up to 1000."""
    accepted = []
    for n in LENGTHS:
        with suppress(ConfigError):  # a schedule may say that it does not exist for N diffusion steps
            entry.make()(n)
            accepted.append(n)
    assert accepted, f"it refuses every number of diffusion steps of {LENGTHS}"
    for n in accepted:
        betas = build_betas(entry.make(), n)
        assert torch.equal(betas, build_betas(entry.make(), n)), "two calls differ"
        abar = [1.0, *Process.from_betas(betas).alphas_cumprod]
        assert all(later < earlier for earlier, later in pairwise(abar)), f"abar does not fall (N = {n})"
        assert abar[-1] > 0, f"abar falls to zero (N = {n})"


def check_stride(entry: RegistryEntry[Stride]) -> None:
    """Strictly falling timesteps from N-1 to 0, as many as are asked for, of processes of many kinds."""
    for schedule in ("vp", "linear", "cosine", "karras"):
        for n in (1, 2, 5, 50, 1000):
            process = Process.from_betas(build_betas(schedule, n))
            for steps in {1, 2, 3, n // 2, n - 1, n} & set(range(1, n + 1)):
                times = visited_timesteps(entry.make(), process, steps)
                assert all(isinstance(t, int) for t in times), f"timesteps must be integers: {times}"
                assert times == visited_timesteps(entry.make(), process, steps), "two calls differ"


def check_prediction(entry: RegistryEntry[Callable[[], Prediction]]) -> None:
    """What it is trained on leads back to x_0, at one timestep and at many; errors of both are in the ratio it says."""
    prediction, process = entry.make()(), Process.from_betas(build_betas("vp", BATCH))
    start, eps, t = make_batch().action[0], make_batch(seed=1).action[0], torch.arange(BATCH)
    target = check_pure(lambda *values: prediction.target(process, *values), start, eps, t)
    x = process.diffuse(start, t, eps)
    check_shape("the target", target, *start.shape)
    back = partial(prediction.start, process)
    assert torch.allclose(back(x, t, target), start), "a perfect output does not lead back to x_0"
    off = back(x, t, target + 0.1) - start
    for row in range(BATCH):
        one = back(x[row], row, target[row])
        assert torch.allclose(one, start[row]), f"at timestep {row} alone it gives another x_0 than among others"
        ratio = 0.01 / float(off[row].square().mean())
        said = prediction.error_ratio(process.snr(row))
        assert math.isclose(ratio, said, rel_tol=1e-6), f"error_ratio is {said} where it is {ratio}"
    check_function(back, x, t, target)


def check_loss_weighting(entry: RegistryEntry[Callable[[], LossWeighting]]) -> None:
    """Weights of N timesteps, finite, not negative and not all zero, for everything that can be predicted."""
    process = Process.from_betas(build_betas("vp", 20))
    for prediction in predictions:
        weights = entry.make()().weights(prediction.make()(), process)
        assert len(weights) == process.n_timesteps, f"it gives {len(weights)} weights for 20 timesteps"
        assert all(math.isfinite(weight) and weight >= 0 for weight in weights), f"a weight is wrong: {weights}"
        assert any(weights), "all weights are zero"


def check_sampler(entry: RegistryEntry[Callable[[], Sampler]]) -> None:
    """Actions in range, a function of the injected noise alone, differentiable; exact in the limit of many steps."""
    sampler = entry.make()()
    assert isinstance(sampler, Sampler), "a sampler must be derived from Sampler"
    for steps in (0, 1, 3):
        _check_chain(replace(sampler, steps=steps))
    with suppress(ConfigError):
        replace(sampler, steps=6).times(Process.from_betas(build_betas("vp", 5)))
        raise AssertionError("it does not refuse 6 steps of 5 trained ones")
    process = even_process(65)  # with the exact denoiser of a Gaussian: the more steps, the closer to where it must end
    errors = [error_of(replace(sampler, steps=steps, stride="uniform"), process) for steps in (9, 17, 33, 65)]
    assert errors[-1] < 0.1, f"with 65 steps it misses a Gaussian target by {errors[-1]:.3f}"
    for coarse, fine in pairwise(errors):
        assert fine < max(0.8 * coarse, 0.02), f"more steps do not help: errors {errors}"


def _check_chain(sampler: Sampler) -> None:
    """Of five trained timesteps: a known x_0 is found, and gradients reach the start and every visited timestep."""
    process = Process.from_betas(build_betas("vp", 5))
    state, wanted = make_batch().state[0], make_batch().action[0] * 0.9
    noise = (torch.randn(BATCH, 3).double(), torch.randn(sampler.draws(process), BATCH, 3).double())

    def chain(start: Tensor, steps: Tensor, state: Tensor) -> Tensor:
        noise = ChainNoise(start, steps)
        return sampler(lambda x, t, s: (0.3 + 0.1 * t) * x + s[:, :3], process, state, noise, 1.0)

    known = sampler(lambda x, t, s: wanted, process, state, ChainNoise(*noise), 1.0)
    assert torch.allclose(known, wanted, atol=1e-6), "a perfect denoiser does not lead to its action"
    action = check_function(chain, *noise, state)
    assert bool((action.abs() <= 1).all()), "an action is out of range"
    part = chain(noise[0][:2], noise[1][:, :2], state[:2])
    assert torch.allclose(part, action[:2]), "a row depends on other rows"
    start = noise[0].clone().requires_grad_()
    weights = {t: torch.tensor(0.5, dtype=start.dtype, requires_grad=True) for t in sampler.times(process)}
    action = sampler(lambda x, t, s: weights[t] * x, process, state, ChainNoise(start, noise[1]), FAR)
    gradients = torch.autograd.grad(action.square().sum(), [start, *weights.values()], allow_unused=True)
    for name, gradient in zip(["the start", *(f"the denoiser at t = {t}" for t in weights)], gradients, strict=True):
        assert gradient is not None, f"no gradient reaches {name}"
        assert bool((gradient != 0).any()), f"the gradient at {name} is zero"


MEAN = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
STD = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
"""The Gaussian target: actions N(MEAN, STD^2), independent in each of A = 3 dimensions."""


def std_at(process: Process, t: int) -> Tensor:
    """Standard deviation (A,) of the target's x_t, sqrt(V_t)."""
    return (process.alphas_cumprod[t] * STD.square() + process.sigma(t) ** 2).sqrt()


def limit_moments(process: Process, stochastic: bool) -> Tensor:
    """Mean and standard deviation (2, A) that samplers approach: x_N ~ N(0, 1), x_t at t = 0, then E[x_0 | x_t].

    The probability-flow ODE of deterministic ones keeps (x_t - alpha_t mean) / sqrt(V_t) as it is (Song et al. 2021,
    score SDE, section 4.3). Stochastic ones draw x_t given x_N, by the reverse SDE's own transition in one step, with
    Cov(x_t, x_N) = alpha_N / alpha_t V_t.
    """
    last = process.n_timesteps - 1
    first, final, falling = std_at(process, 0), std_at(process, last), process.alpha(last) / process.alpha(0)
    share = falling * first.square() / final.square() if stochastic else first / final  # of x_N in x_t
    std = (first.square() - (share * final).square() + share.square()).sqrt()
    gain = process.alpha(0) * STD.square() / first.square()
    return torch.stack([MEAN - gain * share * process.alpha(last) * MEAN, gain * std])


def even_process(n_timesteps: int, low: float = -5.0, high: float = 1.0) -> Process:
    """A process whose lambda = log(alpha / sigma) falls evenly from `high` to `low`.

    The default ends are chosen so that orders of convergence show: where the denoiser has hardly anything to do at
    either end, the leading errors of the third order cancel.
    """
    levels = [high + (low - high) * t / max(n_timesteps - 1, 1) for t in range(n_timesteps)]
    return Process.from_alphas_cumprod([1 / (1 + math.exp(-2 * level)) for level in levels])


def error_of(sampler: Sampler, process: Process) -> float:
    """How far a sampler with the exact denoiser ends from where it must: the largest difference of any moment.

    The denoiser is affine in x and the range does not clip, so the moments follow from the answer to each noise alone.
    """

    def exact(x: Tensor, t: int, state: Tensor) -> Tensor:
        """The target's E[x_0 | x_t] = mean + alpha_t std^2 / V_t (x_t - alpha_t mean)."""
        gain = process.alpha(t) * STD.square() / std_at(process, t).square()
        return MEAN + gain * (x - process.alpha(t) * MEAN)

    draws = sampler.draws(process)
    impulses = torch.eye(draws + 2, dtype=torch.float64)[1:].unsqueeze(-1).expand(-1, -1, len(MEAN))
    noise, states = ChainNoise(impulses[0], impulses[1:]), torch.zeros(draws + 2, 1, dtype=torch.float64)
    answers = sampler(exact, process, states, noise, FAR)
    moments = torch.stack([answers[0], (answers[1:] - answers[0]).square().sum(dim=0).sqrt()])
    return float((moments - limit_moments(process, draws > 0)).abs().max())
