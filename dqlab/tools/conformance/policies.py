"""What policies must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dqlab.config.registry import RegistryEntry
from dqlab.diffusion import Process
from dqlab.diffusion.sampling import ChainNoise, Denoise, Sampler
from dqlab.networks import Layout
from dqlab.noise import NoiseSpec, normal
from dqlab.policies import Policy
from dqlab.policies.base import Dims
from dqlab.policies.selection import Selection, take_candidates
from dqlab.tools.conformance.made import (
    BATCH,
    DIMS,
    check_device,
    check_function,
    check_pure,
    check_traceable,
    check_vmapped,
    make_batch,
    make_noise,
    one_noise,
)
from dqlab.training.execution.program import nested_tensors, tree_map

Noise = dict[str, Tensor]
WIDE = Dims(DIMS.state, DIMS.action, 2.0)


def check_policy(entry: RegistryEntry[Callable[[], Policy]]) -> None:
    """Losses (B,) and actions (B, A) in range, differentiable, a function of their arguments alone, row by row."""
    policy = entry.make()()
    case = _Case(policy, DIMS, torch.float64)
    _check_shapes(case)
    for function, values in ((case.losses, case.loss_values), (case.sample, case.sample_values)):
        check_pure(function, case.row, *values)
        check_traceable(function, case.row, *values)
        check_vmapped(
            lambda row, function=function, values=values: function(row, *values), (case.row,), (0.9 * case.row,)
        )
    _check_rows(case)
    _check_meta(case)
    for dims in (DIMS, WIDE):
        case = _Case(policy, dims, torch.float64)
        _check_shapes(case)
        _check_range(case)
        _check_gradients(case)
    _check_shapes(_Case(policy, DIMS, torch.float32))


class _Case:
    """A policy as functions of tensors, and the tensors to call them with.

    Its parameters are a fresh network's and a little noise: layers may begin with zeros, which hide what they do.
    """

    def __init__(self, policy: Policy, dims: Dims, dtype: torch.dtype) -> None:
        self.policy, self.dims, self.dtype = policy, dims, dtype
        module = policy.build(dims).to(dtype)
        self.layout = Layout.of(module)
        fresh = self.layout.flatten(dict(module.named_parameters())).detach()
        self.noise = self._noise({"row": normal(len(fresh))})["row"]
        self.row = fresh + 0.05 * self.noise
        batch = make_batch(dims, dtype=dtype)
        self.loss_values = (batch.state[0], batch.action[0], self._noise(policy.loss_noise(dims, BATCH)))
        self.sample_values = (batch.state[0], self._noise(policy.sample_noise(dims, BATCH)))

    def _noise(self, specs: dict[str, NoiseSpec]) -> Noise:
        return {name: value[0] for name, value in make_noise(specs, dtype=self.dtype).items()}

    def losses(self, row: Tensor, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        return self.policy.losses(self.layout.bind(row), self.dims, state, action, noise)

    def sample(self, row: Tensor, state: Tensor, noise: Noise) -> Tensor:
        return self.policy.sample(self.layout.bind(row), self.dims, state, noise)

    def act(self, row: Tensor, state: Tensor, noise: Noise) -> Tensor:
        return self.policy.act(self.layout.bind(row), self.dims, state, noise)


def _check_shapes(case: _Case) -> None:
    """Losses (B,), actions (B, A), in the parameters' type."""
    losses = case.losses(case.row, *case.loss_values)
    assert losses.shape == (BATCH,), f"losses have shape {tuple(losses.shape)} instead of ({BATCH},)"
    for name, action in _actions(case, case.row).items():
        assert action.shape == (BATCH, case.dims.action), f"{name} gives {tuple(action.shape)}"
        assert action.dtype == case.dtype, f"{name} gives {action.dtype} for {case.dtype}"
    assert losses.dtype == case.dtype, f"losses are of {losses.dtype} for {case.dtype}"
    assert bool(torch.isfinite(losses).all()), "a loss is not finite"


def _actions(case: _Case, row: Tensor) -> dict[str, Tensor]:
    return {"sample": case.sample(row, *case.sample_values), "act": case.act(row, *case.sample_values)}


def _check_meta(case: _Case) -> None:
    """The same on a device whose tensors have shapes only, the module's buffers among them."""
    case.layout.to(torch.device("meta"))
    check_device(case.losses, case.row, *case.loss_values)
    check_device(case.sample, case.row, *case.sample_values)


def _check_range(case: _Case) -> None:
    """Actions stay in range whatever the parameters; at least once they need more than half of it."""
    wild = [tuple(_actions(case, case.row + size * case.noise).values()) for size in (0.0, 0.5, 5.0)]
    for action in nested_tensors(wild):
        assert bool((action.abs() <= case.dims.max_action).all()), "an action is out of range"
    assert max(float(action.abs().max()) for action in nested_tensors(wild)) > case.dims.max_action / 2, (
        "the range is not used"
    )


def _check_gradients(case: _Case) -> None:
    """Finite gradients; every parameter gets one from the losses, or is there for `sample` and gets one from there."""
    of_losses = _gradient(case, lambda row: case.losses(row, *case.loss_values))
    of_sample = _gradient(case, lambda row: case.sample(row, *case.sample_values))
    assert any(bool(gradient.any()) for gradient in of_sample.values()), "sample is not differentiable"
    assert any(bool(gradient.any()) for gradient in of_losses.values()), "the losses are not differentiable"
    for name, gradient in of_losses.items():
        assert bool(gradient.any()) or bool(of_sample[name].any()), f"nothing trains the parameter {name}"


def _gradient(case: _Case, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    row = case.row.clone().requires_grad_()
    result = function(row)
    assert result.requires_grad, "it does not depend on the parameters"
    (gradient,) = torch.autograd.grad(result.mean(), row)
    assert bool(torch.isfinite(gradient).all()), "a gradient is not finite"
    return case.layout.unflatten(gradient)


def _check_rows(case: _Case) -> None:
    """What happens in one row does not depend on another."""
    state, action, noise = case.loss_values
    change = torch.zeros_like(state)
    change[0] = 1.0
    before, after = case.losses(case.row, state, action, noise), case.losses(case.row, state + change, action, noise)
    assert torch.allclose(before[1:], after[1:]), "a loss depends on another row"
    assert not torch.allclose(before[0], after[0]), "the losses ignore the state"
    state, noise = case.sample_values
    before, after = case.sample(case.row, state, noise), case.sample(case.row, state + change, noise)
    assert torch.allclose(before[1:], after[1:]), "an action depends on another row"
    assert not torch.allclose(before[0], after[0]), "actions ignore the state"


FAR = 1e6
"""A bound of the action range that nothing reaches."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (A,) of actions."""

    mean: Tensor
    std: Tensor

    def error(self, other: Moments) -> float:
        """The largest difference of either, in any dimension."""
        return float(torch.maximum((self.mean - other.mean).abs(), (self.std - other.std).abs()).max())


@dataclass(frozen=True)
class Gaussian:
    """Actions N(mean, std^2), independent in each of A dimensions; float64."""

    mean: tuple[float, ...] = (0.5, -0.3, 0.1)
    std: tuple[float, ...] = (0.2, 0.5, 0.8)

    @property
    def moments(self) -> Moments:
        """Its own mean and standard deviation."""
        return Moments(torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64))

    def std_at(self, process: Process, t: int) -> Tensor:
        """Standard deviation (A,) of x_t, sqrt(V_t)."""
        return (process.alphas_cumprod[t] * self.moments.std.square() + process.sigma(t) ** 2).sqrt()

    def denoiser(self, process: Process) -> Denoise:
        """The exact data prediction E[x_0 | x_t] = mean + alpha_t std^2 / V_t (x_t - alpha_t mean)."""
        own = self.moments

        def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
            gain = process.alpha(t) * own.std.square() / self.std_at(process, t).square()
            return own.mean + gain * (x - process.alpha(t) * own.mean)

        return denoise

    def flow(self, process: Process) -> Moments:
        """What deterministic samplers approach: x_N ~ N(0, 1), the probability-flow ODE to t = 0, then E[x_0 | x_t].

        The ODE keeps (x_t - alpha_t mean) / sqrt(V_t) as it is (Song et al. 2021, score SDE, section 4.3).
        """
        last = process.n_timesteps - 1
        own, scale = self.moments, self.std_at(process, 0) / self.std_at(process, last)
        return self._denoised(process, -scale * process.alpha(last) * own.mean, scale)

    def ancestry(self, process: Process) -> Moments:
        """What stochastic samplers approach: x_N ~ N(0, 1), a draw of x_t given it at t = 0, then E[x_0 | x_t].

        Cov(x_t, x_N) = alpha_N / alpha_t V_t: the reverse SDE's own transition, in one step.
        """
        last = process.n_timesteps - 1
        own, first, final = self.moments, self.std_at(process, 0), self.std_at(process, last)
        share = process.alpha(last) / process.alpha(0) * first.square() / final.square()
        variance = first.square() - (share * final).square() + share.square()
        return self._denoised(process, -share * process.alpha(last) * own.mean, variance.sqrt())

    def _denoised(self, process: Process, offset: Tensor, std: Tensor) -> Moments:
        """Moments of E[x_0 | x_t] at t = 0, where x_t has mean alpha_t mean + offset and a standard deviation."""
        gain = process.alpha(0) * self.moments.std.square() / self.std_at(process, 0).square()
        return Moments(self.moments.mean + gain * offset, gain * std)


def moments_of(sampler: Sampler, process: Process, denoise: Denoise, width: int) -> Moments:
    """Exact mean and standard deviation (A,) of a sampler's actions, where the denoiser is affine in x.

    Args:
        sampler: any; the range does not clip.
        process: the process of training.
        denoise: the data prediction.
        width: A.
    """
    draws = sampler.draws(process)
    impulses = torch.eye(draws + 2, dtype=torch.float64)[1:].unsqueeze(-1).expand(-1, -1, width)
    noise = ChainNoise(impulses[0], impulses[1:])
    answers = sampler(denoise, process, torch.zeros(draws + 2, 1, dtype=torch.float64), noise, FAR)
    return Moments(answers[0], (answers[1:] - answers[0]).square().sum(dim=0).sqrt())


def even_process(n_timesteps: int, low: float = -5.0, high: float = 1.0) -> Process:
    """A process whose lambda = log(alpha / sigma) falls evenly from `high` to `low`.

    The default ends are chosen so that orders of convergence show: where the denoiser has hardly anything to do at
    either end, the leading errors of the third order cancel.
    """
    levels = [high + (low - high) * t / max(n_timesteps - 1, 1) for t in range(n_timesteps)]
    return Process.from_alphas_cumprod([1 / (1 + math.exp(-2 * level)) for level in levels])


def error_of(sampler: Sampler, process: Process) -> float:
    """How far a sampler with the exact denoiser ends from `Gaussian.flow`, or from `Gaussian.ancestry` if it draws."""
    target = Gaussian()
    reached = moments_of(sampler, process, target.denoiser(process), len(target.mean))
    return reached.error(target.ancestry(process) if sampler.draws(process) else target.flow(process))


def convergence_orders(steps: Sequence[int], errors: Sequence[float]) -> list[float]:
    """The order of convergence between neighbours: K timesteps have K - 1 intervals."""
    pairs = pairwise(zip(steps, errors, strict=True))
    return [math.log(coarse / fine) / math.log((more - 1) / (few - 1)) for (few, coarse), (more, fine) in pairs]


Made = tuple[Tensor, Tensor, Noise, Tensor]


def check_selection(entry: RegistryEntry[Callable[[], Selection]]) -> None:
    """Indices (B,) or (k, B) of existing candidates, a function of its arguments alone, state by state."""
    selection = entry.make()()
    assert selection.n_candidates >= 1, "n_candidates must be at least 1"
    candidates, q, noise, value = _candidates(selection)
    for given in ((candidates, q, noise), (candidates, q, noise, value)):
        _check_index(check_function(selection, *given), selection.n_candidates)
    _check_index(selection(*tree_map(lambda x: x.float() if x.is_floating_point() else x, (candidates, q, noise))), 0)
    check_vmapped(selection, *(_candidates(selection, seed) for seed in (0, 1)))
    _check_states(selection, candidates, q, noise)
    _check_order(selection, candidates, q, noise)


def _candidates(selection: Selection, seed: int = 0) -> Made:
    """Candidates (C, B, A), their values (2, C, B), the selection's noise, and values of the states (B,)."""
    count = selection.n_candidates
    specs = {"candidates": normal(count, BATCH, 3), "q": normal(2, count, BATCH), "value": normal(BATCH)}
    made = one_noise(specs, seed)
    return made["candidates"].clamp(-1, 1), made["q"], one_noise(selection.noise(BATCH), seed), made["value"]


def _check_index(index: Tensor, count: int) -> None:
    """Indices below the count of candidates, if one is given."""
    assert index.dtype == torch.int64, f"an index must be of int64, not {index.dtype}"
    assert index.ndim in (1, 2), f"index has shape {tuple(index.shape)} instead of ({BATCH},) or (k, {BATCH})"
    assert index.shape[-1] == BATCH, f"index has shape {tuple(index.shape)} instead of ({BATCH},) or (k, {BATCH})"
    assert not count or bool(((index >= 0) & (index < count)).all()), "an index is out of range"


def _check_states(selection: Selection, candidates: Tensor, q: Tensor, noise: Noise) -> None:
    """What is chosen in one state does not depend on the candidates of another."""
    other = torch.cat([q[..., :1].flip(1) + 1, q[..., 1:]], dim=-1)
    before, after = selection(candidates, q, noise), selection(candidates, other, noise)
    assert torch.equal(before[..., 1:], after[..., 1:]), "a choice depends on another state's candidates"


def _check_order(selection: Selection, candidates: Tensor, q: Tensor, noise: Noise) -> None:
    """The same actions are chosen in whatever order the candidates stand, their noise (C, ...) with them.

    Noise of another shape may be used by rank or by position, so nothing is asked of selections that have any.
    """
    count = selection.n_candidates
    if any(tensor.shape[:1] != (count,) for tensor in noise.values()):
        return
    order = torch.arange(count).roll(count // 2).flip(0)
    moved = selection(candidates[order], q[:, order], {name: tensor[order] for name, tensor in noise.items()})
    same = torch.allclose(
        take_candidates(candidates, selection(candidates, q, noise)), take_candidates(candidates[order], moved)
    )
    assert same, "the choice depends on the order of the candidates"
