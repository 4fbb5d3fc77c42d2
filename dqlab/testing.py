"""Conformance: what every registered part must do, for dqlab's own parts and for a plugin's.

    from dqlab.testing import check
    check("noise_schedule", "my_schedule")

Each check raises AssertionError with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms.base import Algorithm, Batch, algorithms
from dqlab.diffusion.process import Process
from dqlab.diffusion.samplers import ChainNoise, samplers
from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError
from dqlab.networks.critics import CriticEnsemble, critics
from dqlab.networks.denoisers import denoisers
from dqlab.networks.stacking import Layout
from dqlab.noise import NoiseSpec, draw, generator_for
from dqlab.policies.base import Dims, policies
from dqlab.registry import Registry
from dqlab.selection import selections
from dqlab.training.execution import Budget, execution_modes
from dqlab.training.learning_rate import lr_schedules
from dqlab.training.pack import Pack
from dqlab.training.program import Program, Tensors

DIMS = Dims(state=5, action=3)
BATCH = 7


def check(kind: str, name: str) -> None:
    """Put one registered part through its kind's conformance suite (and check that it is documented)."""
    entry = next((entry for entry in Registry.kinds[kind] if entry.name == name), None)
    assert entry is not None, f"no {kind} is called '{name}'"
    assert entry.summary, f"{kind} '{name}' has no summary: give it a docstring"
    if kind in CHECKS:
        CHECKS[kind](name)


def make_noise(specs: dict[str, NoiseSpec], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A draw of what `specs` ask for, with a leading axis of one replica."""
    values = draw(specs, generator_for(seed, "testing", 0), dtype)
    return {name: value.unsqueeze(0) for name, value in values.items()}


def make_batch(dims: Dims = DIMS, batch: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """A random batch of one replica; about a quarter of it terminal."""
    generator = generator_for(seed, "testing batch", 0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, dtype=dtype)

    action = normal(batch, dims.action).clamp(-dims.max_action, dims.max_action)
    terminal = (normal(batch) > 0.7).to(dtype)
    return Batch(normal(batch, dims.state), action, normal(batch), normal(batch, dims.state), terminal)


def check_noise_schedule(name: str) -> None:
    """Betas of the right shape inside (0, 1), abar falling, the same at every call, for N from 1 to 50."""
    for n in (1, 2, 5, 20, 50):
        betas = build_betas(name, n)
        process = Process.from_betas(betas)
        assert torch.equal(betas, build_betas(name, n)), "two calls differ"
        abar = [1.0, *process.alphas_cumprod]
        assert all(later < earlier for earlier, later in pairwise(abar)), "abar does not fall"


def check_denoiser(name: str) -> None:
    """Output (B, A), rows independent of each other, all inputs listened to, `prepare` and `denoise` like `forward`."""
    module = denoisers.get(name)(DIMS.state, DIMS.action).double()
    batch, t = make_batch(), torch.arange(BATCH) % 5
    action, state = batch.action[0], batch.state[0]
    out = module(action, t, state)
    assert out.shape == action.shape, f"output has shape {tuple(out.shape)} instead of {tuple(action.shape)}"
    assert torch.allclose(out[2:4], module(action[2:4], t[2:4], state[2:4])), "a row depends on other rows"
    for changed in ((action + 1, t, state), (action, (t + 1) % 5, state), (action, t, state + 1)):
        assert not torch.allclose(out, module(*changed)), "an input is ignored"
    if hasattr(module, "prepare"):
        check_chain(module, action, state)
    check_stacking(module, action, t, state)


def check_chain(module: Any, action: Tensor, state: Tensor) -> None:
    """What a denoiser prepares for a whole chain gives what `forward` gives at every timestep."""
    prepared = module.prepare(state, torch.arange(5))
    for index in range(5):
        whole = module(action, torch.full((BATCH,), index), state)
        assert torch.allclose(module.denoise(action, index, prepared), whole), "denoise differs from forward"


def check_stacking(module: torch.nn.Module, *inputs: Tensor) -> None:
    """Two networks under `vmap` give what each gives alone."""
    layout = Layout.of(module)
    row = layout.flatten(dict(module.named_parameters())).detach()
    rows = torch.stack([row, row * 0.9])
    together = torch.vmap(lambda row: layout.bind(row)(*inputs))(rows)
    for index in range(2):
        assert torch.allclose(together[index], layout.bind(rows[index])(*inputs)), "stacked differs from alone"


def check_critic(name: str) -> None:
    """Values (M, B); members initialised differently; aggregations of the right shapes; it can be stacked."""
    ensemble = critics.get(name)(DIMS.state, DIMS.action).double()
    assert isinstance(ensemble, CriticEnsemble), "a critic must be a CriticEnsemble"
    batch = make_batch()
    q = ensemble(batch.state[0], batch.action[0])
    assert q.ndim == 2, f"values have shape {tuple(q.shape)} instead of (M, {BATCH})"
    assert q.shape[1] == BATCH, f"values have shape {tuple(q.shape)} instead of (M, {BATCH})"
    assert len({float(row.detach().sum()) for row in q}) == len(q), "two members are the same"
    assert ensemble.backup(q).shape == (BATCH,), "backup must give (B,)"
    for values in ensemble.ascend(q, torch.tensor(1)):
        assert values.shape == (BATCH,), "ascend must give two tensors (B,)"
    check_stacking(ensemble, batch.state[0], batch.action[0])


def check_sampler(name: str) -> None:
    """Actions in range, a function of the injected noise alone, differentiable; and exact for a known x_0."""
    sampler, process = samplers.get(name), Process.from_betas(build_betas("vp", 5))
    batch = make_batch()
    state, wanted = batch.state[0], batch.action[0] * 0.9
    noise = ChainNoise(torch.randn(BATCH, 3, dtype=torch.float64), torch.randn(5, BATCH, 3, dtype=torch.float64))

    def knows(x: Tensor, t: int, state: Tensor) -> Tensor:
        abar = process.alphas_cumprod[t]
        eps: Tensor = (x - abar**0.5 * wanted) / (1 - abar) ** 0.5
        return eps

    action = sampler(knows, process, state, noise, 1.0)
    assert torch.allclose(action, wanted, atol=1e-6), "a perfect denoiser does not lead to its action"
    before = torch.get_rng_state()
    free = sampler(lambda x, t, s: 0.1 * x, process, state, noise, 1.0)
    assert torch.equal(torch.get_rng_state(), before), "it draws random numbers of its own"
    assert torch.equal(free, sampler(lambda x, t, s: 0.1 * x, process, state, noise, 1.0)), "two calls differ"
    assert bool((free.abs() <= 1).all()), "an action is out of range"


def check_selection(name: str) -> None:
    """Indices (B,) of existing candidates, a function of its arguments alone."""
    selection = selections.get(name)()
    count = selection.n_candidates
    candidates, q = torch.randn(count, BATCH, 3, dtype=torch.float64), torch.randn(2, count, BATCH, dtype=torch.float64)
    noise = {key: value[0] for key, value in make_noise(selection.noise(BATCH)).items()}
    index = selection(candidates, q, noise)
    assert index.shape == (BATCH,), f"index has shape {tuple(index.shape)} instead of ({BATCH},)"
    assert bool(((index >= 0) & (index < count)).all()), "an index is out of range"
    assert torch.equal(index, selection(candidates, q, noise)), "two calls differ"


def check_policy(name: str) -> None:
    """A finite scalar loss with a gradient for every parameter; actions (B, A) in range."""
    policy = policies.get(name)()
    module = policy.build(DIMS).double()
    layout = Layout.of(module)
    row = layout.flatten(dict(module.named_parameters())).detach().requires_grad_()
    batch = make_batch()
    noise = {key: value[0] for key, value in make_noise(policy.loss_noise(DIMS, BATCH)).items()}
    loss = policy.loss(layout.bind(row), batch.state[0], batch.action[0], noise)
    assert loss.ndim == 0, "the loss is not a scalar"
    (gradient,) = torch.autograd.grad(loss, row)
    assert bool(torch.isfinite(gradient).all()), "the loss's gradient is not finite"
    noise = {key: value[0] for key, value in make_noise(policy.sample_noise(DIMS, BATCH)).items()}
    action = policy.sample(layout.bind(row), DIMS, batch.state[0], noise)
    assert action.shape == (BATCH, DIMS.action), f"actions have shape {tuple(action.shape)}"
    assert bool((action.abs() <= DIMS.max_action).all()), "an action is out of range"


def check_algorithm(name: str) -> None:
    """Updates change every trained network, give finite scalars, are repeatable, and are the same packed as alone."""
    make = algorithms.get(name)
    alone = [_train(make(), [seed]) for seed in (3, 4)]
    packed = _train(make(), [3, 4])
    for row, single in enumerate(alone):
        for group, values in single.weights(0).items():
            for key, value in values.items():
                difference = (value - packed.weights(row)[group][key]).abs().max()
                assert float(difference) <= 1e-9, f"{group}.{key} differs by {float(difference):.1e} when packed"
    untrained = Pack([make()], DIMS, [3], dtype=torch.float64)
    for group in alone[0].state.parameters:
        moved = alone[0].state.parameters[group] != untrained.state.parameters[group]
        assert bool(moved.any()), f"{group} is not trained"
    state = make_batch().state
    noise = make_noise(alone[0].algorithm.act_noise(DIMS, BATCH))
    action = alone[0].act(state, noise)
    assert action.shape == (1, BATCH, DIMS.action), f"act gives {tuple(action.shape)}"
    assert bool((action.abs() <= DIMS.max_action).all()), "an action is out of range"


def _train(algorithm: Algorithm, seeds: list[int], steps: int = 3) -> Pack:
    pack = Pack([algorithm] * len(seeds), DIMS, seeds, dtype=torch.float64)
    before = torch.get_rng_state()
    for step in range(steps):
        batches = [make_batch(seed=100 * seed + step)._asdict() for seed in seeds]
        specs = algorithm.update_noise(DIMS, BATCH)
        noises = [make_noise(specs, seed=100 * seed + step) for seed in seeds]
        batch = Batch(**{key: torch.cat([each[key] for each in batches]) for key in batches[0]})
        info = pack.update(batch, {key: torch.cat([each[key] for each in noises]) for key in noises[0]})
        for key, value in info.items():
            assert value.shape == (len(seeds),), f"{key} has shape {tuple(value.shape)}"
            assert bool(torch.isfinite(value).all()), f"{key} is not finite"
    assert torch.equal(torch.get_rng_state(), before), "a loss draws random numbers of its own"
    return pack


def check_lr_schedule(name: str) -> None:
    """Factors between 0 and 1, starting at 1."""
    schedule = lr_schedules.get(name)
    assert schedule(0, 1000, 100) == 1.0, "does not start at 1"
    assert all(0 <= schedule(step, 1000, 100) <= 1 for step in range(0, 1001, 50)), "a factor is outside [0, 1]"


def check_execution(name: str) -> None:
    """A program gives what its function gives, twice, on tensors that stay in place; or the mode says what it lacks."""
    mode = execution_modes.get(name)()
    if mode.missing(torch.device("cpu")):
        return
    tensors = {"x": torch.arange(6.0).view(2, 3), "sum": torch.zeros(3)}

    def add(tensors: Tensors) -> Tensor:
        total: Tensor = tensors["sum"].add_(tensors["x"].sum(0))
        return total * 2

    run = mode.settle(Budget(torch.device("cpu"), 0.0))(Program(add, tensors, ("sum",)))
    assert not bool(tensors["sum"].any()), "making a program ready changes its tensors"
    for times in (1, 2):
        wanted = times * torch.tensor([3.0, 5.0, 7.0])
        assert torch.allclose(run(), 2 * wanted), "it gives something else"
        assert torch.allclose(tensors["sum"], wanted), "it does not change its tensors as the function does"


def check_resolvable(kind: str, name: str) -> None:
    """Its name finds it, and a misspelt name does not."""
    Registry.kinds[kind].get(name)
    try:
        Registry.kinds[kind].get(name + "?")
    except ConfigError:
        return
    raise AssertionError(f"'{name}?' is found in {kind}")


CHECKS: dict[str, Callable[[str], None]] = {
    "noise_schedule": check_noise_schedule,
    "denoiser": check_denoiser,
    "critic": check_critic,
    "sampler": check_sampler,
    "selection": check_selection,
    "policy": check_policy,
    "algorithm": check_algorithm,
    "lr_schedule": check_lr_schedule,
    "execution": check_execution,
}
NAMES_ONLY = ("task", "physics", "data_source", "reward_transform", "offline_rule", "early_stop", "precision")
for _kind in NAMES_ONLY:
    CHECKS[_kind] = partial(check_resolvable, _kind)
