"""What is chosen about training must do: how it runs, how fast it learns, when it stops, which evaluation it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dqlab.ablation.engines.base import FAILED, FINISHED, Engine, Job
from dqlab.config.registry import RegistryEntry
from dqlab.errors import ConfigError
from dqlab.networks.precision import Precision
from dqlab.tools.conformance import counting_job
from dqlab.tools.conformance.made import UncheckedError, check_pure, unchecked, with_moved_parameters
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.execution.program import Program, TensorTree
from dqlab.training.model_selection import EarlyStop, OfflineRule
from dqlab.training.plan import LearningRateSchedule


def check_lr_schedule(entry: RegistryEntry[LearningRateSchedule]) -> None:
    """Factors between 0 and 1, starting at 1."""
    schedule = entry.make()
    assert schedule(0, 1000, 100) == 1.0, "does not start at 1"
    assert all(0 <= schedule(step, 1000, 100) <= 1 for step in range(0, 1001, 50)), "a factor is outside [0, 1]"


def check_execution(entry: RegistryEntry[Callable[[], ExecutionMode]]) -> None:
    """A program gives what its function gives, twice, on tensors that stay in place; or the mode says what it lacks."""
    mode = entry.make()()
    if missing := mode.unavailable_reason(torch.device("cpu")):
        raise UncheckedError(f"it needs {missing}")
    tensors = {"x": torch.arange(6.0).view(2, 3), "sum": torch.zeros(3)}

    def add(tensors: TensorTree) -> Tensor:
        total: Tensor = tensors["sum"].add_(tensors["x"].sum(0))
        return total * 2

    run = mode.resolve(torch.device("cpu"))(Program(add, tensors, ("sum",)))
    assert not bool(tensors["sum"].any()), "making a program ready changes its tensors"
    for times in (1, 2):
        wanted = times * torch.tensor([3.0, 5.0, 7.0])
        assert torch.allclose(run(), 2 * wanted), "it gives something else"
        assert torch.allclose(tensors["sum"], wanted), "it does not change its tensors as the function does"


def _curves() -> Iterator[list[float]]:
    """200 curves of one to eight losses: rising and falling, with ties, large and small ones, some not finite."""
    draw = np.random.default_rng(0)
    for number in range(200):
        losses = draw.normal(size=1 + number % 8).round(1) * 10.0 ** draw.integers(-3, 4)
        if number % 5 == 0:
            losses[draw.integers(len(losses))] = draw.choice([np.nan, np.inf, -np.inf])
        yield losses.tolist()


def check_offline_rule(entry: RegistryEntry[OfflineRule]) -> None:
    """An index of an evaluation for any losses, those that are not finite too, and any top_k; always the same."""
    rule = entry.make()
    for losses in _curves():
        for top_k in range(10):
            index = rule(list(losses), top_k)
            where = f"of {len(losses)} losses with top_k = {top_k}"
            assert type(index) is int, f"an index must be an int, not {index!r}"
            assert 0 <= index < len(losses), f"it takes evaluation {index} {where}"
            check_pure(rule, losses, top_k)


def check_early_stop(entry: RegistryEntry[EarlyStop]) -> None:
    """A bool for any losses; no stop while each loss is the lowest; where it stops, a higher last loss stops too."""
    stops = entry.make()
    for losses in _curves():
        stopped = stops(list(losses))
        assert type(stopped) is bool, f"it must say True or False, not {stopped!r}"
        check_pure(stops, losses)
        if stopped and np.isfinite(losses).all():
            higher = [*losses[:-1], losses[-1] + 1.0 + abs(losses[-1])]
            assert stops(higher), f"it stops after {losses}, but not after {higher}, whose last loss is higher"
    falling = [1.0 / (1 + number) for number in range(20)]
    for count in range(1, len(falling) + 1):
        said = f"it stops after {count} evaluations, of which each has the lowest loss so far"
        assert not stops(falling[:count]), said


ROUNDING = {"highest": torch.finfo(torch.float32).eps, "high": 2.0**-10, "medium": 2.0**-7}
"""Relative rounding of an operand, by what `torch.set_float32_matmul_precision` is told."""


def check_precision(entry: RegistryEntry[Callable[[], Precision]]) -> None:
    """Values and gradients of a network as its type rounds them; parameters stay float32, and nothing outlives it."""
    precision, device = entry.make()(), torch.device("cpu")
    assert precision.float32_products in ROUNDING, f"float32_products must be one of {', '.join(ROUNDING)}"
    if missing := precision.unavailable_reason(device):
        raise UncheckedError(f"it needs {missing}")
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    network = with_moved_parameters(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8)), 0.2)
    exact, exact_gradient = _value_and_gradient(network, x.double(), nullcontext())
    value, gradient = _value_and_gradient(network.float(), x, precision.region(device))
    tolerance = 16 * max(torch.finfo(value.dtype).eps, ROUNDING[precision.float32_products])
    for what, found, wanted in (("values", value, exact), ("gradients", gradient, exact_gradient)):
        error = float((found.double() - wanted).abs().max() / wanted.abs().max())
        assert error <= tolerance, f"{what} are off by {error:.1e}; {value.dtype} explains {tolerance:.1e}"
    assert gradient.dtype == torch.float32, f"gradients of float32 parameters are {gradient.dtype}"
    assert network(x).dtype == torch.float32, "it outlives its context"


def _value_and_gradient(network: nn.Module, x: Tensor, region: AbstractContextManager[object]) -> tuple[Tensor, Tensor]:
    """What a network gives, and the gradient of its mean square with respect to the first weights."""
    with region:
        value = network(x)
    (gradient,) = torch.autograd.grad(value.to(x.dtype).square().mean(), next(network.parameters()))
    return value.detach(), gradient


def made_job(folder: Path, **plan: Any) -> Job:
    """A job that trains nothing (`counting_job`), in a new folder; `plan` is its pack.gin."""
    folder.mkdir(parents=True)
    (folder / "pack.gin").write_text("".join(f"{name} = {value!r}\n" for name, value in plan.items()))
    return Job(folder.name, folder, worker=counting_job.__name__)


def check_engine(entry: RegistryEntry[Callable[[], Engine]]) -> None:
    """Two jobs, of which one fails: both end, with reasons, events and files; or the engine says what it lacks."""
    told: dict[str, list[str]] = {"sound": [], "failing": []}
    with tempfile.TemporaryDirectory() as place:
        jobs = [made_job(Path(place) / "sound", steps=2), made_job(Path(place) / "failing", fail_at=2)]
        with unchecked(ConfigError, "pip install"):
            run = entry.make()().run(jobs, lambda job, event: told[job.id].append(event["event"]))
            ends = {ended.job.id: ended for ended in run}
        assert set(ends) == set(told), f"of two jobs, {len(ends)} have ended"
        assert ends["sound"].code == FINISHED, f"a job should have finished: {ends['sound'].reason}"
        assert ends["failing"].code == FAILED, "a failing job has not failed"
        assert ends["failing"].reason, "a failing job's reason is lost"
        assert told["sound"] == ["started", "saved", "saved", "finished"], f"events are {told['sound']}"
        assert told["failing"] == ["started", "saved", "failed"], f"events are {told['failing']}"
        assert (jobs[0].folder / "summary.json").exists(), "a job's files are not in its folder when it has ended"
