"""What algorithms must do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dqlab.ablation.engines import stand_in
from dqlab.ablation.engines.base import FAILED, FINISHED, Engine, Job
from dqlab.algorithms import Algorithm
from dqlab.algorithms.mmd_ql import Kernel
from dqlab.config.registry import RegistryEntry
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.tools.conformance.made import BATCH, DIMS, check_device, check_pure, check_traceable, make_batch, make_noise
from dqlab.training import Pack, Probe
from dqlab.training.execution.modes import ComputeBudget, ExecutionMode
from dqlab.training.execution.program import Program, TensorTree, tree_map
from dqlab.training.pack import PackState
from dqlab.training.plan import LearningRateSchedule


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
    alike = check_pure(entry.make(), difference)
    assert alike.shape == (BATCH,), f"a kernel of differences ({BATCH}, A) gives {tuple(alike.shape)}"
    assert torch.equal(alike, entry.make()(-difference)), "it is not symmetric"
    assert bool(((alike >= 0) & (alike < 1)).all()), "different actions must have a kernel in [0, 1)"
    assert float(entry.make()(torch.zeros(1, 3))) == 1.0, "equal actions must have a kernel of 1"
    check_device(entry.make(), difference)
    check_traceable(entry.make(), difference)


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


def made_job(folder: Path, **plan: Any) -> Job:
    """A job that trains nothing (`dqlab.ablation.engines.stand_in`), in a new folder; `plan` is its pack.gin."""
    folder.mkdir(parents=True)
    (folder / "pack.gin").write_text("".join(f"{name} = {value!r}\n" for name, value in plan.items()))
    return Job(folder.name, folder, {}, worker=stand_in.__name__)


def check_engine(entry: RegistryEntry[Callable[[], Engine]]) -> None:
    """Two jobs, of which one fails: both end, with reasons, events and files; or the engine says what it lacks."""
    told: dict[str, list[str]] = {"sound": [], "failing": []}
    with tempfile.TemporaryDirectory() as place:
        jobs = [made_job(Path(place) / "sound", steps=2), made_job(Path(place) / "failing", fail_at=2)]
        try:
            run = entry.make()().run(jobs, lambda job, event: told[job.id].append(event["event"]))
            ends = {ended.job.id: ended for ended in run}
        except ConfigError as error:
            if "pip install" not in str(error):
                raise
            return
        assert set(ends) == set(told), f"of two jobs, {len(ends)} have ended"
        assert ends["sound"].code == FINISHED, f"a job should have finished: {ends['sound'].reason}"
        assert ends["failing"].code == FAILED, "a failing job has not failed"
        assert ends["failing"].reason, "a failing job's reason is lost"
        assert told["sound"] == ["started", "saved", "saved", "finished"], f"events are {told['sound']}"
        assert told["failing"] == ["started", "saved", "failed"], f"events are {told['failing']}"
        assert (jobs[0].folder / "summary.json").exists(), "a job's files are not in its folder when it has ended"


def check_lr_schedule(entry: RegistryEntry[LearningRateSchedule]) -> None:
    """Factors between 0 and 1, starting at 1."""
    schedule = entry.make()
    assert schedule(0, 1000, 100) == 1.0, "does not start at 1"
    assert all(0 <= schedule(step, 1000, 100) <= 1 for step in range(0, 1001, 50)), "a factor is outside [0, 1]"


def check_execution(entry: RegistryEntry[Callable[[], ExecutionMode]]) -> None:
    """A program gives what its function gives, twice, on tensors that stay in place; or the mode says what it lacks."""
    mode = entry.make()()
    if mode.unavailable_reason(torch.device("cpu")):
        return
    tensors = {"x": torch.arange(6.0).view(2, 3), "sum": torch.zeros(3)}

    def add(tensors: TensorTree) -> Tensor:
        total: Tensor = tensors["sum"].add_(tensors["x"].sum(0))
        return total * 2

    run = mode.resolve(ComputeBudget(torch.device("cpu"), 0.0))(Program(add, tensors, ("sum",)))
    assert not bool(tensors["sum"].any()), "making a program ready changes its tensors"
    for times in (1, 2):
        wanted = times * torch.tensor([3.0, 5.0, 7.0])
        assert torch.allclose(run(), 2 * wanted), "it gives something else"
        assert torch.allclose(tensors["sum"], wanted), "it does not change its tensors as the function does"
