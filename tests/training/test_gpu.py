"""On a CUDA device: nothing waits for the host, memory is as told, tensor cores round as they should."""

from __future__ import annotations

import warnings

import pytest
import torch
from made_updates import DIMS, random_transitions

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.networks.precision import precisions
from dqlab.training import Pack, Probe
from dqlab.training.execution.modes import execution_modes
from dqlab.training.probe import USABLE, WORKSPACES
from dqlab.training.programs import Step

pytestmark = pytest.mark.gpu

BATCH = 256


def step_on_the_card(mode: str, replicas: int, precision: str = "full") -> Step:
    data = random_transitions(10_000, torch.float32, torch.device("cuda"))
    chosen = precisions.get(precision)()
    torch.set_float32_matmul_precision(chosen.float32_products)
    pack = Pack([DiffusionQL()] * replicas, DIMS, range(replicas), device="cuda", precision=chosen)
    return Step(pack, data, BATCH, execution_modes.get(mode)())


@pytest.mark.parametrize("mode", ["eager", "cuda_graph", "compile+cuda_graph"])
def test_at_most_one_wait_for_the_host_in_100_updates(mode: str) -> None:
    step = step_on_the_card(mode, 2)
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            for _ in range(300):
                step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [str(wait.message) for wait in waits if "synchroniz" in str(wait.message)]
    assert len(told) <= 3, told[:3]


@pytest.mark.parametrize("mode", ["cuda_graph", "compile+cuda_graph"])
def test_memory_is_at_most_what_was_told(mode: str) -> None:
    """While it is made ready, which takes copies of the state; while it runs; and what it keeps from others."""
    replicas, told = 16, Probe(DiffusionQL(), DIMS, BATCH).memory
    torch.cuda.empty_cache()
    before, held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    step = step_on_the_card(mode, replicas)
    torch.cuda.synchronize()
    ready = torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    for _ in range(101):  # new noise is drawn once
        step()
    torch.cuda.synchronize()
    running = torch.cuda.max_memory_allocated() - before
    data = sum(field.nbytes for field in step._fields if field is not None)
    room = replicas * (told.kept + told.working) + WORKSPACES["cuda"] + data
    assert max(ready, running) <= room
    assert torch.cuda.memory_reserved() - held <= room / USABLE
    assert room / replicas <= 60e6


def test_tensor_cores_round_a_little() -> None:
    """TF32 keeps 10 bits of mantissa: losses agree to a few thousandths after an update, but not exactly."""
    exact, rounded = step_on_the_card("eager", 1), step_on_the_card("eager", 1, "tf32")
    exact(), rounded()
    torch.set_float32_matmul_precision("highest")
    wanted, sums = exact.take_sums(), rounded.take_sums()
    for name, value in wanted.items():
        assert torch.allclose(sums[name], value, rtol=5e-3, atol=5e-3), name
