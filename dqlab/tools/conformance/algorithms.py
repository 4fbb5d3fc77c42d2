"""What algorithms must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.algorithms.mmd_ql import Kernel
from dqlab.config.registry import RegistryEntry
from dqlab.data import Batch
from dqlab.tools.conformance.made import (
    BATCH,
    DIMS,
    check_device,
    check_function,
    check_pure,
    check_traceable,
    make_batch,
    make_noise,
)
from dqlab.training import Pack, Probe
from dqlab.training.execution.program import tree_map
from dqlab.training.pack import PackState


def check_algorithm(entry: RegistryEntry[Callable[[], Algorithm]]) -> None:
    """Updates train every network, are finite, pure, resumable, compilable, and the same packed as alone."""
    make = entry.make()
    trained = _train([make()], [3])
    _check_trained(trained, make())
    _check_packed(make())
    _check_losses(make())
    _check_resumes(make())
    _check_acts(trained)
    _check_stays_on_device(make())


def check_kernel(entry: RegistryEntry[Kernel]) -> None:
    """1 for equal actions, less for others, never negative, and the same both ways; without numbers of its own."""
    difference = make_batch().action[0]
    alike = check_function(entry.make(), difference)
    assert alike.shape == (BATCH,), f"a kernel of differences ({BATCH}, A) gives {tuple(alike.shape)}"
    assert torch.equal(alike, entry.make()(-difference)), "it is not symmetric"
    assert bool(((alike >= 0) & (alike < 1)).all()), "different actions must have a kernel in [0, 1)"
    assert float(entry.make()(torch.zeros(1, 3))) == 1.0, "equal actions must have a kernel of 1"


def _check_trained(trained: Pack, algorithm: Algorithm) -> None:
    untrained = Pack([algorithm], DIMS, [3], dtype=torch.float64)
    for group, matrix in trained.state.parameters.items():
        assert bool((matrix != untrained.state.parameters[group]).any()), f"{group} is not trained"
    for name, target in trained.algorithm.targets().items():
        assert target.source in trained.state.parameters, f"the target {name} follows {target.source}, which is unknown"


def _check_packed(algorithm: Algorithm) -> None:
    """Two replicas of different seeds and different scalars train and act as each does alone."""
    other = replace(algorithm, **{name: 0.9 * value for name, value in algorithm.hyper().items()})  # type: ignore[type-var]
    packed = _train([algorithm, other], [3, 4])
    for row, (each, seed) in enumerate(((algorithm, 3), (other, 4))):
        alone = _train([each], [seed])
        for group, values in alone.weights(0).items():
            for key, value in values.items():
                difference = float((value - packed.weights(row)[group][key]).abs().max())
                assert difference <= 1e-9, f"{group}.{key} differs by {difference:.1e} when packed"
        _check_acts_packed(packed, row, alone)
    shared = sorted(Probe(algorithm, DIMS).shared_hyperparameters)
    assert not shared, f"self.{shared[0]} is read: read hyper['{shared[0]}'] in a loss, or name it in `structural`"


def _check_acts_packed(packed: Pack, row: int, alone: Pack) -> None:
    """A replica of a pack acts, and samples actions, as it does alone."""
    specs = alone.algorithm.act_noise(DIMS, BATCH), alone.algorithm.sample_action_noise(DIMS, BATCH)
    state = make_batch().state
    for doing, spec in zip(("act", "sample_action"), specs, strict=True):
        noise = make_noise(spec)
        wanted = getattr(alone, doing)(state, noise)[0]
        both = {name: value.expand(2, *value.shape[1:]) for name, value in noise.items()}
        difference = float((getattr(packed, doing)(state.expand(2, -1, -1), both)[row] - wanted).abs().max())
        assert difference <= 1e-9, f"{doing} differs by {difference:.1e} when packed"


def _check_losses(algorithm: Algorithm) -> None:
    """Pure functions of tensors, reported under their network's name, that can be compiled."""
    pack = Pack([algorithm], DIMS, [0], dtype=torch.float64)
    noise = make_noise(algorithm.update_noise(DIMS, BATCH))

    def losses(batch: Batch, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        return pack.losses(slice(0, 1), batch, noise)

    info = check_pure(losses, make_batch(), noise)
    for name in info:
        assert name.split("/")[0] in pack.trained, f"'{name}' must begin with a network's name and a slash"
    wanted = algorithm.selection_loss
    assert wanted in info, f"selection_loss is '{wanted}', but the losses report {', '.join(info)}"
    check_traceable(losses, make_batch(), noise)


def _check_resumes(algorithm: Algorithm) -> None:
    """Three updates, the state alone carried over to new objects, and three more are six updates."""
    half = _train([algorithm], [3], range(3))
    carried = tree_map(torch.clone, vars(half.state) | {"step": torch.tensor(half.state.step)})
    fresh = Pack([algorithm], DIMS, [3], dtype=torch.float64)
    fresh.state = PackState(carried["parameters"], carried["moments"], carried["targets"], int(carried["step"]))
    resumed, whole = _train([algorithm], [3], range(3, 6), fresh), _train([algorithm], [3], range(6))
    for name, matrix in whole.state.parameters.items():
        assert torch.equal(matrix, resumed.state.parameters[name]), f"{name} depends on more than the state"


def _check_acts(pack: Pack) -> None:
    noise = make_noise(pack.algorithm.act_noise(DIMS, BATCH))
    action = check_pure(pack.act, make_batch().state, noise)
    assert action.shape == (1, BATCH, DIMS.action), f"act gives {tuple(action.shape)}"
    assert bool((action.abs() <= DIMS.max_action).all()), "an action is out of range"
    loaded = Pack([pack.algorithm], DIMS, [9], dtype=torch.float64)
    loaded.load(0, pack.weights(0))
    assert torch.equal(loaded.act(make_batch().state, noise), action), "saved and loaded, it acts in another way"


def _check_stays_on_device(algorithm: Algorithm) -> None:
    """An update and an action on a device whose tensors have shapes only: none is made on the host, none read back."""
    pack = Pack([algorithm], DIMS, [0], dtype=torch.float64, device="meta")
    check_device(pack.update, make_batch(), make_noise(algorithm.update_noise(DIMS, BATCH)))
    check_device(pack.act, make_batch().state, make_noise(algorithm.act_noise(DIMS, BATCH)))


def _train(
    algorithms: Sequence[Algorithm], seeds: Sequence[int], steps: range = range(4), pack: Pack | None = None
) -> Pack:
    pack = pack or Pack(algorithms, DIMS, seeds, dtype=torch.float64, width=len(seeds))
    before = torch.get_rng_state()
    for step in steps:
        batches = [make_batch(seed=100 * seed + step)._asdict() for seed in seeds]
        specs = pack.algorithm.update_noise(DIMS, BATCH)
        noises = [make_noise(specs, seed=100 * seed + step) for seed in seeds]
        batch = Batch(**{key: torch.cat([each[key] for each in batches]) for key in batches[0]})
        info = pack.update(batch, {key: torch.cat([each[key] for each in noises]) for key in noises[0]})
        for key, value in info.items():
            assert value.shape == (len(seeds),), f"{key} has shape {tuple(value.shape)}"
            assert bool(torch.isfinite(value).all()), f"{key} is not finite"
    assert torch.equal(torch.get_rng_state(), before), "a loss draws random numbers of its own"
    return pack
