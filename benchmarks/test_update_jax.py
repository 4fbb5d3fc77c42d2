"""One training step of Diffusion-QL, batch of 256, N = 5, against the same update jitted in JAX (extra `bench-jax`).

One replica; both keep the data on the device and draw their own batches and noise. On a CPU both have one core.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from subjects import as_transitions, devices, made_fields, modes, new_mode, new_pack, synchronizer, update_flops
from test_update import Case

from dqlab.training.programs import Step


def cases(quick: bool) -> list[Case]:
    return [Case(1, 256, mode, device) for device in devices() for mode in modes(device)]


@pytest.fixture(scope="module")
def peer() -> Iterator[Any]:
    """The peer, on one core: JAX starts as many threads as there are cores when it is first used."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch wants some of a GPU's memory, too
    pytest.importorskip("jax", reason="pip install -e '.[bench-jax]'")
    yield importlib.import_module("baseline_jax")
    os.sched_setaffinity(0, allowed)


def test_update_against_jax(measure: Callable[..., Any], case: Case, rows: int, peer: Any) -> None:
    if case.device not in ("cpu", *(["cuda"] if peer.on_gpu() else [])):
        pytest.skip("this JAX has no such device")
    pack, fields = new_pack(1, case.device), made_fields(rows)
    step = Step(pack, as_transitions(fields).to(case.device, pack.dtype), case.batch, new_mode(case.mode))
    weights = {net: {k: v.cpu().numpy() for k, v in named.items()} for net, named in pack.weights(0).items()}
    agent = peer.JaxAgent(weights, fields, case.device, case.batch)
    ours = synchronizer(case.device)

    def synchronize() -> None:
        ours()
        agent.synchronize()

    measure(
        step,
        agent.step,
        parameters={"part": "update against jax", **asdict(case)},
        flops=update_flops(case.batch),
        synchronize=synchronize,
    )
