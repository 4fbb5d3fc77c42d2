"""Packs: the same alone as together, for every algorithm; scalars per replica; injection of weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gin
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import DIMS, largest_difference, random_transitions

from dqlab.algorithms import Algorithm, algorithms
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.errors import RunError
from dqlab.networks import Layout
from dqlab.noise import NoiseStream, integers
from dqlab.training import Pack
from dqlab.training.optimiser import BETA1, BETA2, adam_step, clip_by_norm


@pytest.fixture(autouse=True)
def small() -> None:
    gin.parse_config(SMALL)


def train(each: list[Algorithm], seeds: list[int], dtype: torch.dtype, steps: int = 10, **options: Any) -> Pack:
    pack, batch = Pack(each, DIMS, seeds, dtype=dtype, **options), 8
    specs = {**each[0].update_noise(DIMS, batch), "batch_index": integers(500, batch)}
    stream = NoiseStream(specs, tuple(seeds), "update", dtype=dtype)
    data = random_transitions(500, dtype)
    for step in range(steps):
        noise = stream.at(step)
        pack.update(data.batch(noise.pop("batch_index")), noise)
    return pack


ALONE = [(name, torch.float64, 2, 1e-9) for name in algorithms.names()]
ALONE += [(name, torch.float32, 1, 1e-4) for name in ("diffusion_ql", "iql")]  # the same program for the others


@pytest.mark.parametrize(("name", "dtype", "width", "tolerance"), ALONE)
def test_packed_equals_alone(name: str, dtype: torch.dtype, width: int, tolerance: float) -> None:
    """Seed 1 of seeds 0 and 1, under one vmap or one after the other."""
    make = algorithms.get(name)
    together = train([make()] * 2, [0, 1], dtype, width=width)
    alone = train([make()], [1], dtype)
    assert largest_difference(together.weights(1), alone.weights(0)) < tolerance
    assert largest_difference(together.weights(0), alone.weights(0)) > 1e-2  # another seed is another run


def test_scalars_vary_along_the_pack() -> None:
    """Replicas with the same seed and another eta, discount, rate or bound: each as it is alone."""
    base = DiffusionQL(ema_start=5)
    each = [base, replace(base, eta=3.0), replace(base, discount=0.5, tau=0.1), replace(base, learning_rate=1e-3)]
    each.append(replace(base, grad_norm=0.01))
    together = train(list(each), [5] * 5, torch.float64)
    for row, algorithm in enumerate(each):
        alone = train([algorithm], [5], torch.float64)
        assert largest_difference(together.weights(row), alone.weights(0)) < 1e-9
        if row:
            assert largest_difference(together.weights(row), together.weights(0)) > 1e-5


def test_a_diverging_replica_leaves_those_computed_with_it_alone() -> None:
    """Under one vmap, as on a GPU."""
    base = DiffusionQL(ema_start=5)
    broken = replace(base, learning_rate=1e30, grad_norm=0.0)
    together = train([base, broken, base], [0, 1, 2], torch.float64, width=3)
    without = train([base, base, base], [0, 1, 2], torch.float64, width=3)
    assert not torch.isfinite(together.state.parameters["actor"][1]).all()
    for row in (0, 2):
        assert largest_difference(together.weights(row), without.weights(row)) == 0


def test_injected_weights_come_back_and_targets_follow() -> None:
    source, pack = Pack([DiffusionQL()], DIMS, [1]), Pack([DiffusionQL()] * 2, DIMS, [2, 3])
    weights = source.weights(0)
    pack.load(1, {"actor": weights["actor"], "critic": weights["critic"]})
    assert largest_difference(pack.weights(1), weights) == 0
    assert largest_difference(pack.weights(0), weights) > 0


def test_weights_that_do_not_fit_are_named() -> None:
    pack = Pack([DiffusionQL()], DIMS, [1])
    weights = pack.weights(0)["actor"]
    wrong = {**weights, "final_layer.bias": torch.zeros(3)}
    with pytest.raises(RunError, match=r"final_layer.bias: \(3,\) instead of \(6,\)"):
        pack.load(0, {"actor": wrong})
    del weights["final_layer.bias"]
    with pytest.raises(RunError, match="final_layer.bias"):
        pack.load(0, {"actor": weights})


def test_the_moving_average_starts_late_and_moves_every_fifth_step() -> None:
    algorithm = DiffusionQL(ema_start=10)
    initial = Pack([algorithm], DIMS, [0], dtype=torch.float64).state.targets["actor_ema"]
    packs = {n: train([algorithm], [0], torch.float64, steps=n) for n in (10, 11, 15, 16)}
    after = {n: pack.state.targets["actor_ema"] for n, pack in packs.items()}
    assert torch.equal(after[10], initial)
    assert not torch.equal(after[11], initial)
    assert torch.equal(after[11], after[15])
    assert not torch.equal(after[15], after[16])


def test_initial_networks_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    Pack([DiffusionQL()], DIMS, [0])
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_begin_where_tensor_cores_can_read_them() -> None:
    """Every named view of every replica lies at a multiple of 64 bytes from the first, whatever came before it."""
    pack = Pack([DiffusionQL()] * 3, DIMS, [0, 1, 2])
    for name, matrix in pack.state.parameters.items():
        for row in matrix:
            for view in pack.layouts[name].unflatten(row).values():
                assert (view.data_ptr() - matrix.data_ptr()) % 64 == 0
    layout = pack.layouts["critic"]
    padding = layout.size - sum(shape.numel() for shape in layout.shapes.values())
    assert padding == 2 * 15  # each critic's last bias is one number


def test_what_lies_between_parameters_stays_zero() -> None:
    pack = train([DiffusionQL()], [0], torch.float64, steps=3)
    layout, row = pack.layouts["critic"], pack.state.parameters["critic"][0]
    assert torch.equal(layout.flatten(layout.unflatten(row)), row)


class Tied(torch.nn.Module):
    """One layer under two names, and one that is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.again = self.first
        self.none = torch.nn.Linear(3, 3, bias=False)
        self.register_module("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.none(self.again(self.first(x)))


def test_a_network_is_its_module_with_other_parameters() -> None:
    """Layers used twice, missing biases and missing layers included; the module keeps its own."""
    module, other, x = Tied(), Tied(), torch.randn(2, 3)
    layout, before = Layout.of(module), module(x)
    network = layout.bind(layout.flatten(dict(other.named_parameters())))
    assert torch.equal(network(x), other(x))
    assert torch.equal(network.call("forward", x), other(x))
    assert torch.equal(module(x), before)


RATES = [1e-2, 3e-4, 0.0]


@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_rows_are_torchs_adam_with_their_own_rate(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    alone = [torch.nn.Parameter(row.clone()) for row in rows]
    optimisers = [torch.optim.Adam([row], lr=rate) for row, rate in zip(alone, RATES, strict=True)]
    moments = (torch.zeros_like(rows), torch.zeros_like(rows))
    for step in range(1, 6):
        gradient = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        first, root = (1 - BETA1**step, (1 - BETA2**step) ** 0.5)
        rates = torch.tensor(RATES, dtype=torch.float64) / first
        adam_step(rows, moments, gradient, rates, torch.full((3,), root, dtype=torch.float64))
        for parameter, row, optimiser in zip(alone, gradient, optimisers, strict=True):
            parameter.grad = row.clone()
            optimiser.step()
    for row, parameter in zip(rows, alone, strict=True):
        assert torch.allclose(row, parameter.detach(), rtol=0, atol=1e-14)


@settings(max_examples=8)
@given(scale=st.floats(1e-3, 1e3))
def test_rows_are_torchs_clipping_with_their_own_bound(scale: float) -> None:
    bounds = torch.tensor([1.0, 7.0, 0.0], dtype=torch.float64)
    gradient = scale * torch.arange(12, dtype=torch.float64).view(3, 4)
    clipped = clip_by_norm(gradient, bounds)
    for row, bound, result in zip(gradient, bounds.tolist(), clipped, strict=True):
        parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        parameter.grad = row.clone()
        if bound > 0:
            torch.nn.utils.clip_grad_norm_([parameter], bound)
        assert torch.allclose(result, parameter.grad, rtol=1e-12, atol=0)
