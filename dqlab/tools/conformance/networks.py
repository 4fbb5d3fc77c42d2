"""What networks must do, and what is made of them: policies, selections, algorithms, losses of values, kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dqlab.algorithms import Algorithm
from dqlab.algorithms.mmd_ql import Kernel
from dqlab.config.registry import RegistryEntry
from dqlab.data import Batch
from dqlab.errors import ConfigError, message_of
from dqlab.networks import Layout
from dqlab.networks.ensembles import CriticEnsemble, ensemble_of
from dqlab.networks.stacking import Network
from dqlab.networks.values import ValueLoss
from dqlab.noise import Noise, normal
from dqlab.policies import Policy
from dqlab.policies.base import Dims
from dqlab.policies.selection import Selection, take_candidates
from dqlab.tools.conformance.made import (
    BATCH,
    DIMS,
    check_copies,
    check_device,
    check_function,
    check_independent_rows,
    check_module,
    check_pure,
    check_same,
    check_shape,
    check_traceable,
    check_vmapped,
    make_batch,
    make_noise,
    one_noise,
    with_moved_parameters,
)
from dqlab.training import Pack, Probe
from dqlab.training.execution.program import concatenate_nested, tree_map


def check_activation(entry: RegistryEntry[Callable[[], nn.Module]]) -> None:
    """Numbers one by one, any shape and floating type, not linear; value and gradient finite."""
    layer = entry.make()()
    x = torch.linspace(-5, 5, 40, dtype=torch.float64).view(8, 5)
    out = _check_elementwise(layer, x, torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4]))
    assert not torch.allclose(layer(x + 1) - out, out - layer(x - 1)), "it is linear"
    assert torch.allclose(torch.vmap(layer)(x), out), "stacked differs from alone"
    check_module(nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 2)).double(), Network.__call__, x)


def check_value_loss(entry: RegistryEntry[ValueLoss]) -> None:
    """A number for each u = Q - V, convex, least at u = 0; value and gradient finite."""
    u = torch.linspace(-3, 3, 61, dtype=torch.float64)
    values = _check_elementwise(entry.make(), u, torch.tensor([-1e3, -1.0, 1.0, 1e3]))
    assert bool((values >= values[30] - 1e-12).all()), "it is not least where V is Q"
    assert bool((values[:-2] + values[2:] >= 2 * values[1:-1] - 1e-12).all()), "it is not convex"


def _check_elementwise(function: Callable[[Tensor], Tensor], x: Tensor, far: Tensor) -> Tensor:
    """Numbers one by one, in the shape and type of x; at those that are far, value and gradient are finite."""
    out: Tensor = check_pure(function, x)
    for given in (x, x.float()):
        found = function(given)
        check_shape("what it gives", found, *x.shape)
        assert found.dtype == given.dtype, f"it gives {found.dtype} for {given.dtype}"
    assert torch.allclose(function(x[3:5]), out[3:5]), "a number depends on others"

    def differentiated(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        out = function(x)
        return out, *torch.autograd.grad(out.sum(), x)

    for values in differentiated(far):
        assert bool(torch.isfinite(values).all()), f"it or its gradient is not finite: {values.tolist()}"
    check_traceable(differentiated, far)
    return out


def check_denoiser(entry: RegistryEntry[Callable[..., nn.Module]]) -> None:
    """Output (B, A), rows independent of each other, all inputs listened to, `prepare` and `denoise` like `forward`."""
    make = partial(entry.make(), DIMS.state, DIMS.action)
    module: Any = with_moved_parameters(make())
    batch, t = make_batch(), torch.arange(BATCH) % 5
    action, state = batch.action[0], batch.state[0]
    out = check_pure(module, action, t, state)
    check_shape("output", out, *action.shape)
    check_independent_rows(module, action, t, state)
    for changed in ((action + 1, t, state), (action, (t + 1) % 5, state), (action, t, state + 1)):
        assert not torch.allclose(out, module(*changed)), "an input is ignored"
    if hasattr(module, "prepare"):
        prepared = module.prepare(state, torch.arange(5))
        for index in range(5):
            whole = module(action, torch.full((BATCH,), index), state)
            assert torch.allclose(module.denoise(action, index, prepared), whole), "denoise differs from forward"

        def use(network: Network, action: Tensor, state: Tensor) -> Any:
            """A step of a chain for which all that depends on the state alone is prepared."""
            prepared = network.call("prepare", state, torch.arange(5, device=state.device))
            return network.call("denoise", action, 3, prepared)

        check_module(module, use, action, state)
    if hasattr(module, "training_noise"):
        specs = module.training_noise(BATCH)
        noise = one_noise(specs)
        out = module.train_forward(action, t, state, noise)
        check_shape("what train_forward gives", out, *action.shape)
        if specs:
            other = module.train_forward(action, t, state, one_noise(specs, seed=1))
            assert not torch.allclose(out, other), "train_forward ignores its noise"
        check_independent_rows(lambda *inputs: module.train_forward(*inputs, noise), action, t, state)
        check_module(module, lambda network, *given: network.call("train_forward", *given), action, t, state, noise)
    check_copies(make, module, action, t, state)
    check_module(module, Network.__call__, action, t, state)


def check_critic(entry: RegistryEntry[Callable[..., CriticEnsemble]]) -> None:
    """Values (M, B); members initialised differently; aggregations of the right shapes; it can be stacked."""
    make = partial(entry.make(), DIMS.state, DIMS.action)
    ensemble = make()
    assert isinstance(ensemble, CriticEnsemble), "a critic must be a CriticEnsemble"
    ensemble = ensemble.double()
    batch = make_batch()
    state, action = batch.state[0], batch.action[0]
    q = ensemble(state, action)
    assert q.shape[1:] == (BATCH,), f"values have shape {tuple(q.shape)} instead of (M, {BATCH})"
    assert len({float(row.detach().sum()) for row in q}) == len(q), "two members are the same"
    outputs = ensemble.outputs(state, action)
    assert torch.allclose(outputs.mean(dim=-1), q), "the mean of outputs (M, B, Z) over Z must be forward's (M, B)"
    layout = Layout.of(ensemble)
    if layout.members is not None:
        row = layout.flatten(dict(ensemble.named_parameters()))
        as_one = layout.bind(row, as_one=True).call("outputs", state, action)
        assert torch.allclose(as_one, outputs), "called as one its members give other values: they are not alike"
    target = ensemble.backup(outputs, one_noise(ensemble.noise()))
    assert target.shape[:-1] == (BATCH,), f"backup has shape {tuple(target.shape)} instead of ({BATCH}, Z)"
    assert ensemble.loss(outputs, target).ndim == 0, "the loss must be a scalar"
    check_shape("ranking_value of (M, B)", ensemble.ranking_value(q), BATCH)
    check_shape("ranking_value of (M, B, 1)", ensemble.ranking_value(q.unsqueeze(-1)), BATCH, 1)
    for index in (0, 1):
        for values in ensemble.actor_objective(q, torch.tensor(index)):
            check_shape("each of actor_objective's two", values, BATCH)
    check_independent_rows(lambda *inputs: ensemble.outputs(*inputs).transpose(0, 1), state, action)
    check_copies(make, ensemble, state, action)
    check_module(ensemble, _update, state, action, one_noise(ensemble.noise()), torch.tensor(1))


def _update(network: Network, state: Tensor, action: Tensor, noise: Noise, index: Tensor) -> Any:
    """All that an algorithm asks of an ensemble; the loss and what the actor ascends are differentiated."""
    ensemble = ensemble_of(network)
    outputs = network.call("outputs", state, action)
    q = outputs.mean(dim=-1)
    target = ensemble.backup(outputs.detach(), noise) + 1
    ranked = ensemble.ranking_value(q.detach())
    return ensemble.loss(outputs, target), ensemble.actor_objective(q, index), ranked, target


def check_policy(entry: RegistryEntry[Callable[[], Policy]]) -> None:
    """Losses (B,) and actions (B, A) in range, differentiable, a function of their arguments alone, row by row."""
    policy = entry.make()()
    for dtype in (torch.float64, torch.float32):
        for name, (function, given) in _functions_of(policy, dtype=dtype)[1].items():
            out = function(*given)
            check_shape(name, out, *((BATCH,) if name == "losses" else (BATCH, DIMS.action)))
            assert out.dtype == dtype, f"{name} gives {out.dtype} for {dtype}"
            assert bool(torch.isfinite(out).all()), f"not all that {name} gives is finite"
            assert out.requires_grad or name == "act", f"{name} does not depend on the parameters"

    def use(network: Network, for_losses: Any, for_sample: Any) -> tuple[Tensor, Tensor]:
        return policy.losses(network, DIMS, *for_losses), policy.sample(network, DIMS, *for_sample)

    module, functions = _functions_of(policy)
    check_module(module, use, functions["losses"][1], functions["sample"][1])
    for name in ("losses", "sample"):
        function, (state, *others) = functions[name]
        check_independent_rows(lambda state, function=function, others=others: function(state, *others), state)
    for dims in (DIMS, Dims(DIMS.state, DIMS.action, 2.0)):
        tried = [_functions_of(policy, dims, size)[1] for size in (0.05, 0.5, 5.0)]
        calls = [each[name] for each in tried for name in ("sample", "act")]
        actions = torch.stack([function(*given) for function, given in calls])
        assert bool((actions.abs() <= dims.max_action).all()), "an action is out of range"
        assert bool(actions.abs().max() > dims.max_action / 2), "the range is not used"


def _functions_of(
    policy: Policy, dims: Dims = DIMS, size: float = 0.05, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]]:
    """A policy's network, its parameters moved by noise of some size; functions of it, each with its arguments."""
    module = with_moved_parameters(policy.build(dims), size).to(dtype)
    layout = Layout.of(module)
    network = layout.bind(layout.flatten(dict(module.named_parameters())))
    state, action = (values[0] for values in make_batch(dims, dtype=dtype)[:2])
    for_losses = state, action, one_noise(policy.loss_noise(dims, BATCH), dtype=dtype)
    for_sample = state, one_noise(policy.sample_noise(dims, BATCH), dtype=dtype)
    given = {"losses": for_losses, "sample": for_sample, "act": for_sample}
    return module, {name: (partial(getattr(policy, name), network, dims), values) for name, values in given.items()}


def check_selection(entry: RegistryEntry[Callable[[], Selection]]) -> None:
    """Indices (B,) or (k, B) of existing candidates, a function of its arguments alone, state by state."""
    selection = entry.make()()
    count = selection.n_candidates
    assert count >= 1, "n_candidates must be at least 1"
    candidates, q, noise, value = _candidates(selection)
    given = candidates, q, noise
    single = tree_map(lambda x: x.float() if x.is_floating_point() else x, given)
    for index in (check_function(selection, *given), check_function(selection, *given, value), selection(*single)):
        assert index.dtype == torch.int64, f"an index must be of int64, not {index.dtype}"
        shape = f"index has shape {tuple(index.shape)} instead of ({BATCH},) or (k, {BATCH})"
        assert index.shape in ((BATCH,), (len(index), BATCH)), shape
        assert bool(((index >= 0) & (index < count)).all()), "an index is out of range"
    check_vmapped(selection, *(_candidates(selection, seed) for seed in (0, 1)))
    other = torch.cat([q[..., :1].flip(1) + 1, q[..., 1:]], dim=-1)
    before, after = selection(*given), selection(candidates, other, noise)
    assert torch.equal(before[..., 1:], after[..., 1:]), "a choice depends on another state's candidates"
    if any(tensor.shape[:1] != (count,) for tensor in noise.values()):
        return  # noise of such a shape may be used by rank or by position: then candidates' order may count
    order = torch.arange(count).roll(count // 2).flip(0)
    moved = candidates[order], q[:, order], {name: tensor[order] for name, tensor in noise.items()}
    taken, other = (take_candidates(values[0], selection(*values)) for values in (given, moved))
    assert torch.allclose(taken, other), "the choice depends on the order of the candidates"


def _candidates(selection: Selection, seed: int = 0) -> tuple[Tensor, Tensor, Noise, Tensor]:
    """Candidates (C, B, A), their values (2, C, B), the selection's noise, and values of the states (B,)."""
    count = selection.n_candidates
    specs = {"candidates": normal(count, BATCH, 3), "q": normal(2, count, BATCH), "value": normal(BATCH)}
    made = one_noise(specs, seed)
    return made["candidates"].clamp(-1, 1), made["q"], one_noise(selection.noise(BATCH), seed), made["value"]


def check_algorithm(entry: RegistryEntry[Callable[[], Algorithm]]) -> None:
    """Updates train every network, are finite, pure, resumable, compilable, and the same packed as alone."""
    make = entry.make()
    trained, pack = _train([make()], [3]), Pack([make()], DIMS, [3], dtype=torch.float64)
    for group, matrix in trained.state.parameters.items():
        assert bool((matrix != pack.state.parameters[group]).any()), f"{group} is not trained"
    for name, target in trained.algorithm.targets().items():
        assert target.source in trained.state.parameters, f"the target {name} follows {target.source}, which is unknown"
    _check_packed(make())
    losses = partial(pack.losses, slice(0, 1))
    batch = make_batch(next_action=pack.algorithm.reads_next_action)
    noise = make_noise(pack.algorithm.update_noise(DIMS, BATCH))
    for name in check_pure(losses, batch, noise):
        assert name.split("/")[0] in pack.trained, f"'{name}' must begin with a network's name and a slash"
    check_traceable(losses, batch, noise)
    for start in pack.phases:  # three updates, and three more of new objects that have the state alone, are six updates
        fresh, whole = Pack([make()], DIMS, [3], dtype=torch.float64), _train([make()], [3], range(start, start + 6))
        fresh.state = deepcopy(_train([make()], [3], range(start, start + 3)).state)
        resumed = _train([make()], [3], range(start + 3, start + 6), fresh)
        for name, matrix in whole.state.parameters.items():
            assert torch.equal(matrix, resumed.state.parameters[name]), f"{name} depends on more than the state"
    state, noise = make_batch().state, make_noise(trained.algorithm.act_noise(DIMS, BATCH))
    action = check_pure(trained.act, state, noise)
    check_shape("what act gives", action, 1, BATCH, DIMS.action)
    assert bool((action.abs() <= DIMS.max_action).all()), "an action is out of range"
    loaded = Pack([trained.algorithm], DIMS, [9], dtype=torch.float64)
    loaded.load(0, trained.weights(0))
    assert torch.equal(loaded.act(state, noise), action), "saved and loaded, it acts in another way"
    pack = Pack([make()], DIMS, [0], dtype=torch.float64, device="meta")
    check_device(pack.update, batch, make_noise(pack.algorithm.update_noise(DIMS, BATCH)))
    check_device(pack.act, state, noise)
    _check_chunks(make())


def check_kernel(entry: RegistryEntry[Kernel]) -> None:
    """1 for equal actions, less for others, never negative, and the same both ways; without numbers of its own."""
    difference = make_batch().action[0]
    alike = check_function(entry.make(), difference)
    check_shape(f"the kernel of differences ({BATCH}, A)", alike, BATCH)
    assert torch.equal(alike, entry.make()(-difference)), "it is not symmetric"
    assert bool(((alike >= 0) & (alike < 1)).all()), "different actions must have a kernel in [0, 1)"
    assert float(entry.make()(torch.zeros(1, 3))) == 1.0, "equal actions must have a kernel of 1"


def _check_chunks(algorithm: Algorithm) -> None:
    """With action chunks, whose rewards are (B, h), their discounted sum counts; `build` may refuse them."""
    dims, discount = replace(DIMS, chunk=DIMS.action), algorithm.hyper().get("discount")
    batch = other = make_batch(dims, next_action=algorithm.reads_next_action)
    if discount is not None:
        powers = discount ** torch.arange(dims.chunk, dtype=torch.float64)
        sums = (powers * batch.reward).sum(-1, keepdim=True)
        other = batch._replace(reward=torch.nn.functional.pad(sums, (0, dims.chunk - 1)))
    try:
        pack = Pack([algorithm], dims, [3], dtype=torch.float64)
    except ConfigError:
        return
    try:
        noise = make_noise(algorithm.update_noise(dims, BATCH))
        found, wanted = (pack.losses(slice(0, 1), each, noise) for each in (batch, other))
    except Exception as error:
        said = (
            "it fails with action chunks (Experiment.action_chunk > 1; rewards are (B, h)), and does not refuse them by"
        )
        raise AssertionError(f"{said} a ConfigError of `build`, where dims.chunk > 1: {message_of(error)}") from error
    check_same(found, wanted, "of an action chunk's rewards (B, h) not the discounted sum counts", rtol=1e-9)


def _check_packed(algorithm: Algorithm) -> None:
    """Two replicas of different seeds and different scalars train and act as each does alone."""
    shared = sorted(Probe(algorithm, DIMS).shared_hyperparameters)
    assert not shared, f"self.{shared[0]} is read: read hyper['{shared[0]}'] in a loss, or name it in `structural`"
    other = replace(algorithm, **{name: 0.9 * value for name, value in algorithm.hyper().items()})  # type: ignore[type-var]
    packed, state = _train([algorithm, other], [3, 4]), make_batch().state
    for row, (each, seed) in enumerate(((algorithm, 3), (other, 4))):
        alone = _train([each], [seed])
        for group, weights in alone.weights(0).items():
            for name, found in packed.weights(row)[group].items():
                check_same(found, weights[name], f"{group}.{name} differs when packed", atol=1e-9)
        for doing in ("act", "sample_action"):
            noise = make_noise(getattr(algorithm, f"{doing}_noise")(DIMS, BATCH))
            both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
            together = getattr(packed, doing)(state.expand(2, -1, -1), both)[row]
            check_same(together, getattr(alone, doing)(state, noise)[0], f"{doing} differs when packed", atol=1e-9)


def _train(
    algorithms: Sequence[Algorithm], seeds: Sequence[int], steps: range | None = None, pack: Pack | None = None
) -> Pack:
    """A pack after updates at those steps, by default the first four of every phase and one of every kind."""
    pack = pack or Pack(algorithms, DIMS, seeds, dtype=torch.float64, width=len(seeds))
    before = torch.get_rng_state()
    first_four = (start + each for start in pack.phases for each in range(4))
    for step in steps or sorted({*first_four, *pack.kinds(range(sys.maxsize))}):
        pack.state.step = step
        keys = [100 * seed + step for seed in seeds]
        batches = [make_batch(seed=key, next_action=pack.algorithm.reads_next_action) for key in keys]
        fields: list[Any] = [None if each[0] is None else torch.cat(each) for each in zip(*batches, strict=True)]
        noise = concatenate_nested([make_noise(pack.algorithm.update_noise(DIMS, BATCH), key) for key in keys])
        for key, value in pack.update(Batch(*fields), noise).items():
            check_shape(key, value, len(seeds))
            assert bool(torch.isfinite(value).all()), f"{key} is not finite"
    assert torch.equal(torch.get_rng_state(), before), "a loss draws random numbers of its own"
    return pack
