"""The benchmark's peer in JAX computes the same updates as dqlab, on the official agent's recording and beyond."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from made_updates import DIMS, random_transitions

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.noise import NoiseStream, integers
from dqlab.training import Pack

jax = pytest.importorskip("jax", reason="the extra bench-jax is not installed")


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("baseline_jax")
    sys.modules.pop("baseline_jax")


def test_the_peer_makes_the_same_updates(peer: Any) -> None:
    """In float64, 20 updates around the step at which the actor's average begins to move."""
    pack = Pack([DiffusionQL(grad_norm=1.0)], DIMS, [0], dtype=torch.float64)
    pack.state.step = first = 990
    data, specs = random_transitions(400), pack.algorithm.update_noise(DIMS, 32)
    stream = NoiseStream({**specs, "batch_index": integers(400, 32)}, (0,), "update", dtype=torch.float64)
    with jax.enable_x64(True):
        weights = {net: {k: v.numpy() for k, v in named.items()} for net, named in pack.weights(0).items()}
        state = peer.initial_state(weights["actor"], weights["critic"]) | {"step": jax.numpy.int32(first)}
        update = jax.jit(peer.update)
        for step in range(first, first + 20):
            noise = stream.at(step)
            batch = data.batch(noise.pop("batch_index"))
            plain = {name: value[0].numpy() for name, value in batch._asdict().items() if value is not None}
            state, losses = update(state, plain, {name: value[0].numpy() for name, value in noise.items()})
            info = pack.update(batch, noise)
            for name, value in losses.items():
                assert float(value) == pytest.approx(float(info[name]), abs=1e-9), name
    for net, named in pack.weights(0).items():
        for name, value in named.items():
            assert np.abs(value.numpy() - np.asarray(state[net][name])).max() < 1e-9, f"{net} {name}"
