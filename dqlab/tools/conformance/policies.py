"""What policies, selections, algorithms and kernels must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    check_shape,
    check_traceable,
    check_vmapped,
    make_batch,
    make_noise,
    one_noise,
    with_moved_parameters,
)
from dqlab.training import Pack, Probe
from dqlab.training.execution.program import tree_map
from dqlab.training.pack import PackState

WIDE = Dims(DIMS.state, DIMS.action, 2.0)


def check_policy(entry: RegistryEntry[Callable[[], Policy]]) -> None:
    """Losses (B,) and actions (B, A) in range, differentiable, a function of their arguments alone, row by row."""
    policy = entry.make()()
    case = _Case(policy)
    _check_outputs(case)
    check_module(case.module, case.losses_and_sample, case.loss_values, case.sample_values)
    for function, (state, *others) in ((case.losses, case.loss_values), (case.sample, case.sample_values)):
        check_independent_rows(lambda state, function=function, others=others: function(state, *others), state)
    for dims in (DIMS, WIDE):
        cases = [_Case(policy, dims, size) for size in (0.05, 0.5, 5.0)]
        actions = torch.stack([act(*case.sample_values) for case in cases for act in (case.sample, case.act)])
        assert bool((actions.abs() <= dims.max_action).all()), "an action is out of range"
        assert bool(actions.abs().max() > dims.max_action / 2), "the range is not used"
    _check_outputs(_Case(policy, dtype=torch.float32))


class _Case:
    """A policy of a network whose parameters noise of some size has moved, and tensors to call its functions with."""

    def __init__(
        self, policy: Policy, dims: Dims = DIMS, size: float = 0.05, dtype: torch.dtype = torch.float64
    ) -> None:
        self.policy, self.dims, self.dtype = policy, dims, dtype
        self.module = with_moved_parameters(policy.build(dims), size).to(dtype)
        layout = Layout.of(self.module)
        network = layout.bind(layout.flatten(dict(self.module.named_parameters())))
        self.losses = partial(policy.losses, network, dims)
        self.sample, self.act = partial(policy.sample, network, dims), partial(policy.act, network, dims)
        batch = make_batch(dims, dtype=dtype)
        loss_noise, sample_noise = policy.loss_noise(dims, BATCH), policy.sample_noise(dims, BATCH)
        self.loss_values = batch.state[0], batch.action[0], one_noise(loss_noise, dtype=dtype)
        self.sample_values = batch.state[0], one_noise(sample_noise, dtype=dtype)

    def losses_and_sample(self, network: Network, for_losses: Any, for_sample: Any) -> tuple[Tensor, Tensor]:
        losses = self.policy.losses(network, self.dims, *for_losses)
        return losses, self.policy.sample(network, self.dims, *for_sample)


def _check_outputs(case: _Case) -> None:
    """Losses (B,), actions (B, A), in the parameters' type; losses and samples are differentiable."""
    losses = case.losses(*case.loss_values)
    check_shape("losses", losses, BATCH)
    assert losses.dtype == case.dtype, f"losses are of {losses.dtype} for {case.dtype}"
    assert bool(torch.isfinite(losses).all()), "a loss is not finite"
    for name, out in (("losses", losses), ("sample", case.sample(*case.sample_values))):
        assert out.requires_grad, f"{name} does not depend on the parameters"
    for name, function in (("sample", case.sample), ("act", case.act)):
        action = function(*case.sample_values)
        check_shape(f"what {name} gives", action, BATCH, case.dims.action)
        assert action.dtype == case.dtype, f"{name} gives {action.dtype} for {case.dtype}"


def check_selection(entry: RegistryEntry[Callable[[], Selection]]) -> None:
    """Indices (B,) or (k, B) of existing candidates, a function of its arguments alone, state by state."""
    selection = entry.make()()
    assert selection.n_candidates >= 1, "n_candidates must be at least 1"
    candidates, q, noise, value = _candidates(selection)
    for given in ((candidates, q, noise), (candidates, q, noise, value)):
        _check_index(check_function(selection, *given), selection.n_candidates)
    _check_index(selection(*tree_map(lambda x: x.float() if x.is_floating_point() else x, (candidates, q, noise))), 0)
    check_vmapped(selection, *(_candidates(selection, seed) for seed in (0, 1)))
    other = torch.cat([q[..., :1].flip(1) + 1, q[..., 1:]], dim=-1)
    before, after = selection(candidates, q, noise), selection(candidates, other, noise)
    assert torch.equal(before[..., 1:], after[..., 1:]), "a choice depends on another state's candidates"
    _check_order(selection, candidates, q, noise)


def _candidates(selection: Selection, seed: int = 0) -> tuple[Tensor, Tensor, Noise, Tensor]:
    """Candidates (C, B, A), their values (2, C, B), the selection's noise, and values of the states (B,)."""
    count = selection.n_candidates
    specs = {"candidates": normal(count, BATCH, 3), "q": normal(2, count, BATCH), "value": normal(BATCH)}
    made = one_noise(specs, seed)
    return made["candidates"].clamp(-1, 1), made["q"], one_noise(selection.noise(BATCH), seed), made["value"]


def _check_index(index: Tensor, count: int) -> None:
    """Indices below the count of candidates, if one is given."""
    assert index.dtype == torch.int64, f"an index must be of int64, not {index.dtype}"
    shape = f"index has shape {tuple(index.shape)} instead of ({BATCH},) or (k, {BATCH})"
    assert index.shape in ((BATCH,), (len(index), BATCH)), shape
    assert not count or bool(((index >= 0) & (index < count)).all()), "an index is out of range"


def _check_order(selection: Selection, candidates: Tensor, q: Tensor, noise: Noise) -> None:
    """The same actions are chosen in whatever order the candidates stand, their noise (C, ...) with them.

    Noise of another shape may be used by rank or by position, so nothing is asked of selections that have any.
    """
    count = selection.n_candidates
    if any(tensor.shape[:1] != (count,) for tensor in noise.values()):
        return
    order = torch.arange(count).roll(count // 2).flip(0)
    moved = candidates[order], q[:, order], {name: tensor[order] for name, tensor in noise.items()}
    taken, other = (take_candidates(given[0], selection(*given)) for given in ((candidates, q, noise), moved))
    assert torch.allclose(taken, other), "the choice depends on the order of the candidates"


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
    packed = _train([algorithm, other], [3, 4])
    for row, (each, seed) in enumerate(((algorithm, 3), (other, 4))):
        alone = _train([each], [seed])
        for group, values in alone.weights(0).items():
            for key, value in values.items():
                _check_equal(f"{group}.{key}", value, packed.weights(row)[group][key])
        specs = alone.algorithm.act_noise(DIMS, BATCH), alone.algorithm.sample_action_noise(DIMS, BATCH)
        state = make_batch().state
        for doing, noise in zip(("act", "sample_action"), map(make_noise, specs), strict=True):
            both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
            together = getattr(packed, doing)(state.expand(2, -1, -1), both)[row]
            _check_equal(doing, getattr(alone, doing)(state, noise)[0], together)
    shared = sorted(Probe(algorithm, DIMS).shared_hyperparameters)
    assert not shared, f"self.{shared[0]} is read: read hyper['{shared[0]}'] in a loss, or name it in `structural`"


def _check_equal(what: str, alone: Tensor, packed: Tensor) -> None:
    difference = float((alone - packed).abs().max())
    assert difference <= 1e-9, f"{what} differs by {difference:.1e} when packed"


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
        carried = tree_map(torch.clone, vars(half.state) | {"step": torch.tensor(half.state.step)})
        fresh = Pack([algorithm], DIMS, [3], dtype=torch.float64)
        fresh.state = PackState(carried["parameters"], carried["moments"], carried["targets"], int(carried["step"]))
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
        batches = [_batch_for(pack.algorithm, 100 * seed + step)._asdict() for seed in seeds]
        specs = pack.algorithm.update_noise(DIMS, BATCH)
        noises = [make_noise(specs, seed=100 * seed + step) for seed in seeds]
        given = [key for key, value in batches[0].items() if value is not None]
        batch = Batch(**{key: torch.cat([each[key] for each in batches]) for key in given})
        info = pack.update(batch, {key: torch.cat([each[key] for each in noises]) for key in noises[0]})
        for key, value in info.items():
            check_shape(key, value, len(seeds))
            assert bool(torch.isfinite(value).all()), f"{key} is not finite"
    assert torch.equal(torch.get_rng_state(), before), "a loss draws random numbers of its own"
    return pack
