"""What policies, selections, algorithms and kernels must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.mmd_ql import Kernel
from dqlab.config.registry import RegistryEntry
from dqlab.data import Batch
from dqlab.networks import Layout
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, normal
from dqlab.policies import Policy
from dqlab.policies.base import Dims
from dqlab.policies.selection import Selection, take_candidates
from dqlab.tools.conformance.made import (
    BATCH,
    DIMS,
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

WIDE = Dims(DIMS.state, DIMS.action, 2.0)


def check_policy(entry: RegistryEntry[Callable[[], Policy]]) -> None:
    """Losses (B,) and actions (B, A) in range, differentiable, a function of their arguments alone, row by row."""
    policy = entry.make()()
    for dtype in (torch.float64, torch.float32):
        case = _Case(policy, dtype=dtype)
        losses = case.losses(*case.loss_values)
        check_shape("losses", losses, BATCH)
        assert losses.dtype == dtype, f"losses are of {losses.dtype} for {dtype}"
        assert bool(torch.isfinite(losses).all()), "a loss is not finite"
        for name, out in (("losses", losses), ("sample", case.sample(*case.sample_values))):
            assert out.requires_grad, f"{name} does not depend on the parameters"
        for name, function in (("sample", case.sample), ("act", case.act)):
            action = function(*case.sample_values)
            check_shape(f"what {name} gives", action, BATCH, DIMS.action)
            assert action.dtype == dtype, f"{name} gives {action.dtype} for {dtype}"

    def use(network: Network, for_losses: Any, for_sample: Any) -> tuple[Tensor, Tensor]:
        return policy.losses(network, DIMS, *for_losses), policy.sample(network, DIMS, *for_sample)

    case = _Case(policy)
    check_module(case.module, use, case.loss_values, case.sample_values)
    for function, (state, *others) in ((case.losses, case.loss_values), (case.sample, case.sample_values)):
        check_independent_rows(lambda state, function=function, others=others: function(state, *others), state)
    for dims in (DIMS, WIDE):
        cases = [_Case(policy, dims, size) for size in (0.05, 0.5, 5.0)]
        actions = torch.stack([act(*case.sample_values) for case in cases for act in (case.sample, case.act)])
        assert bool((actions.abs() <= dims.max_action).all()), "an action is out of range"
        assert bool(actions.abs().max() > dims.max_action / 2), "the range is not used"


class _Case:
    """A policy of a network whose parameters noise of some size has moved, and tensors to call its functions with."""

    def __init__(
        self, policy: Policy, dims: Dims = DIMS, size: float = 0.05, dtype: torch.dtype = torch.float64
    ) -> None:
        self.module = with_moved_parameters(policy.build(dims), size).to(dtype)
        layout = Layout.of(self.module)
        network = layout.bind(layout.flatten(dict(self.module.named_parameters())))
        given = (partial(how, network, dims) for how in (policy.losses, policy.sample, policy.act))
        self.losses, self.sample, self.act = given
        state, action = make_batch(dims, dtype=dtype)[:2]
        self.loss_values = state[0], action[0], one_noise(policy.loss_noise(dims, BATCH), dtype=dtype)
        self.sample_values = state[0], one_noise(policy.sample_noise(dims, BATCH), dtype=dtype)


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
    trained = _train([make()], [3])
    untrained = Pack([make()], DIMS, [3], dtype=torch.float64)
    for group, matrix in trained.state.parameters.items():
        assert bool((matrix != untrained.state.parameters[group]).any()), f"{group} is not trained"
    for name, target in trained.algorithm.targets().items():
        assert target.source in trained.state.parameters, f"the target {name} follows {target.source}, which is unknown"
    _check_packed(make())
    _check_losses(make())
    _check_resumes(make())
    state, noise = make_batch().state, make_noise(trained.algorithm.act_noise(DIMS, BATCH))
    action = check_pure(trained.act, state, noise)
    check_shape("what act gives", action, 1, BATCH, DIMS.action)
    assert bool((action.abs() <= DIMS.max_action).all()), "an action is out of range"
    loaded = Pack([trained.algorithm], DIMS, [9], dtype=torch.float64)
    loaded.load(0, trained.weights(0))
    assert torch.equal(loaded.act(state, noise), action), "saved and loaded, it acts in another way"
    pack = Pack([make()], DIMS, [0], dtype=torch.float64, device="meta")
    check_device(pack.update, _batch_for(make()), make_noise(pack.algorithm.update_noise(DIMS, BATCH)))
    check_device(pack.act, state, noise)


def check_kernel(entry: RegistryEntry[Kernel]) -> None:
    """1 for equal actions, less for others, never negative, and the same both ways; without numbers of its own."""
    difference = make_batch().action[0]
    alike = check_function(entry.make(), difference)
    check_shape(f"the kernel of differences ({BATCH}, A)", alike, BATCH)
    assert torch.equal(alike, entry.make()(-difference)), "it is not symmetric"
    assert bool(((alike >= 0) & (alike < 1)).all()), "different actions must have a kernel in [0, 1)"
    assert float(entry.make()(torch.zeros(1, 3))) == 1.0, "equal actions must have a kernel of 1"


def _check_packed(algorithm: Algorithm) -> None:
    """Two replicas of different seeds and different scalars train and act as each does alone."""
    other = replace(algorithm, **{name: 0.9 * value for name, value in algorithm.hyper().items()})  # type: ignore[type-var]
    packed, state = _train([algorithm, other], [3, 4]), make_batch().state
    for row, (each, seed) in enumerate(((algorithm, 3), (other, 4))):
        alone = _train([each], [seed])
        for name, weights in alone.weights(0).items():
            check_same(packed.weights(row)[name], weights, f"{name} differs when packed", atol=1e-9)
        for doing in ("act", "sample_action"):
            noise = make_noise(getattr(algorithm, f"{doing}_noise")(DIMS, BATCH))
            both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
            together = getattr(packed, doing)(state.expand(2, -1, -1), both)[row]
            check_same(together, getattr(alone, doing)(state, noise)[0], f"{doing} differs when packed", atol=1e-9)
    shared = sorted(Probe(algorithm, DIMS).shared_hyperparameters)
    assert not shared, f"self.{shared[0]} is read: read hyper['{shared[0]}'] in a loss, or name it in `structural`"


def _check_losses(algorithm: Algorithm) -> None:
    """Pure functions of tensors, reported under their network's name, that can be compiled."""
    pack = Pack([algorithm], DIMS, [0], dtype=torch.float64)
    noise = make_noise(algorithm.update_noise(DIMS, BATCH))

    def losses(batch: Batch, noise: Noise) -> dict[str, Tensor]:
        return pack.losses(slice(0, 1), batch, noise)

    info = check_pure(losses, _batch_for(algorithm), noise)
    for name in info:
        assert name.split("/")[0] in pack.trained, f"'{name}' must begin with a network's name and a slash"
    wanted = algorithm.selection_loss
    assert wanted in info, f"selection_loss is '{wanted}', but the losses report {', '.join(info)}"
    check_traceable(losses, _batch_for(algorithm), noise)


def _batch_for(algorithm: Algorithm, seed: int = 0) -> Batch:
    return make_batch(seed=seed, next_action=algorithm.reads_next_action)


def _check_resumes(algorithm: Algorithm) -> None:
    """In every phase three updates, the state alone carried over to new objects, and three more are six updates."""
    for start in Pack([algorithm], DIMS, [3], device="meta").phases:
        half = _train([algorithm], [3], range(start, start + 3))
        fresh = Pack([algorithm], DIMS, [3], dtype=torch.float64)
        fresh.state = deepcopy(half.state)
        resumed = _train([algorithm], [3], range(start + 3, start + 6), fresh)
        whole = _train([algorithm], [3], range(start, start + 6))
        for name, matrix in whole.state.parameters.items():
            assert torch.equal(matrix, resumed.state.parameters[name]), f"{name} depends on more than the state"


def _train(
    algorithms: Sequence[Algorithm], seeds: Sequence[int], steps: range | None = None, pack: Pack | None = None
) -> Pack:
    """A pack after updates at those steps, by default the first four of every phase."""
    pack = pack or Pack(algorithms, DIMS, seeds, dtype=torch.float64, width=len(seeds))
    before = torch.get_rng_state()
    for step in steps or [start + each for start in pack.phases for each in range(4)]:
        pack.state.step = step
        keys = [100 * seed + step for seed in seeds]
        columns = zip(*(_batch_for(pack.algorithm, key) for key in keys), strict=True)
        fields: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
        noise = concatenate_nested([make_noise(pack.algorithm.update_noise(DIMS, BATCH), key) for key in keys])
        for key, value in pack.update(Batch(*fields), noise).items():
            check_shape(key, value, len(seeds))
            assert bool(torch.isfinite(value).all()), f"{key} is not finite"
    assert torch.equal(torch.get_rng_state(), before), "a loss draws random numbers of its own"
    return pack
