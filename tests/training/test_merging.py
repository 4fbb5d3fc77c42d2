"""Summed products become one; what a GPU's program computes is what the update computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod

import gin
import pytest
import torch
from conftest import SHALLOW, SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import DIMS, graph_of, products, random_transitions
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from dqlab.algorithms import algorithms
from dqlab.networks import Layout
from dqlab.training import Pack
from dqlab.training.execution.merging import merge_sums
from dqlab.training.execution.modes import Eager
from dqlab.training.execution.program import nested_tensors
from dqlab.training.programs import SamplerCore, Step

CUDA = torch.device("cuda")
N, LAYERS = 5, 4  # diffusion steps; layers of the denoiser and of each critic, as in test_waste.py


def merged(function: Callable[..., Tensor], *values: Tensor) -> tuple[GraphModule, int]:
    graph = make_fx(function, tracing_mode="fake")(*values)
    saved = merge_sums(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return graph, saved


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=8, deadline=None)
@given(rows=st.lists(st.integers(1, 5), min_size=1, max_size=5), batch=st.integers(0, 2), seed=st.integers(0, 9))
def test_gradients_of_a_layer_that_is_called_several_times(rows: list[int], batch: int, seed: int) -> None:
    """Of its weight one product, of its bias one sum over rows, whatever the numbers of rows are; packed or not."""
    lead = (batch,) if batch else ()
    inputs = [numbers(*lead, count, 3, seed=seed + place) for place, count in enumerate(rows)]
    weight, bias = numbers(*lead, 4, 3, seed=seed + 20), numbers(*lead, 4, seed=seed + 21)

    def gradients(weight: Tensor, bias: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        weight, bias = (value.detach().requires_grad_() for value in (weight, bias))

        def one(weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
            return torch.stack([torch.nn.functional.linear(x, weight, bias).tanh().square().sum() for x in inputs])

        losses = torch.vmap(one)(weight, bias, *inputs) if batch else one(weight, bias, *inputs)
        return torch.autograd.grad(losses.sum(), (weight, bias))

    graph, _ = merged(gradients, weight, bias, *inputs)
    for found, wanted in zip(
        graph(weight, bias, *inputs), gradients(weight, bias, *inputs), strict=True
    ):  # one product for each call, and one for all gradients
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert products(graph) == len(rows) + 1


def test_products_that_are_wanted_themselves_stay() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        product = a @ b
        return product + b @ c, product.exp()

    values = numbers(3, 3), numbers(3, 3, seed=1), numbers(3, 3, seed=2)
    graph, saved = merged(function, *values)  # type: ignore[arg-type]
    assert saved == 0
    assert products(graph) == 2


def test_products_of_different_shapes_are_merged_among_their_like() -> None:
    """Shapes of the results agree, or they could not be added; a sum over rows is no product."""

    def function(a: Tensor, b: Tensor, c: Tensor, d: Tensor, row: Tensor) -> Tensor:
        return (a @ b + row.sum(0, keepdim=True)) + (c @ d + row)

    values = numbers(1, 2), numbers(2, 4), numbers(1, 5), numbers(5, 4), numbers(1, 4)
    graph, saved = merged(function, *values)
    assert saved == 1
    assert products(graph) == 1
    torch.testing.assert_close(graph(*values), function(*values))


A, B, C, D = (numbers(3, 3, seed=seed) for seed in range(4))


def twice(x: Tensor) -> Tensor:
    return x + x


def written_between_stacks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    x = a.clone()
    view, first = x.view(-1), x @ b + c @ d
    view.mul_(2)
    return first * (x @ d + c @ b)


def written_into_a_list(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    x = a.clone()
    product = x @ b
    torch._foreach_mul_([x], 2.0)
    return product + c @ d


def written_as_output(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    x = a.clone()
    product = x @ b
    torch.mul(c, d, out=x)
    return product + c @ d


def overwritten_and_twice(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    x = a.clone()
    product = x @ b
    x.mul_(2)
    return product + product


def through_a_gate(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """A layer feeds two others, called twice: what was merged is a factor of what is merged next."""

    def call(x: Tensor, stem: Tensor, one: Tensor, other: Tensor) -> Tensor:
        hidden = x @ stem
        return (hidden @ one).tanh() * (hidden @ other).sigmoid()

    weights = [value.detach().requires_grad_() for value in (b, c, d)]
    total = call(a, *weights).sum() + call(a + 1, *weights).square().sum()
    return torch.stack(torch.autograd.grad(total, weights))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c, d: twice(a @ b),
        lambda a, b, c, d: twice(a.mean(0)) + twice(a.amax(0)),
        lambda a, b, c, d: twice(a.exp()),
        lambda a, b, c, d: twice(a),
        lambda a, b, c, d: ((a @ b).exp() + c) + (a @ b).exp(),
        lambda a, b, c, d: (a @ b + c @ d) @ a + d @ a,
        lambda a, b, c, d: (a @ b + c @ d).t() + d @ a,
        lambda a, b, c, d: torch.add(a @ b, c @ d, alpha=2) + d @ a,
        lambda a, b, c, d: a.sum() + b.sum() + c.sum(-1) + d.sum(1, keepdim=True) + c.sum((0, 1)),
        lambda a, b, c, d: a.sum().sum(0) + b.sum().sum(0),
        lambda a, b, c, d: a[:0].t() @ b[:0] + c[:0].t() @ d[:0],
        written_between_stacks,
        written_into_a_list,
        written_as_output,
        overwritten_and_twice,
        through_a_gate,
    ],
)
def test_odd_sums_are_what_they_were(function: Callable[..., Tensor]) -> None:
    graph, _ = merged(function, A, B, C, D)
    torch.testing.assert_close(graph(A, B, C, D), function(A, B, C, D), rtol=1e-12, atol=1e-12)


def test_a_thousand_summands() -> None:
    def function(*pairs: Tensor) -> Tensor:
        total = pairs[0] @ pairs[1]
        for first in pairs[1:]:
            total = total + first @ pairs[0]
        return total

    values = [numbers(2, 2, seed=seed) for seed in range(1200)]
    graph, saved = merged(function, *values)
    assert saved == 1199
    torch.testing.assert_close(graph(*values), function(*values))


PACKS = [("diffusion_ql", 1), *((name, 3) for name in algorithms.names())]


def step_of(name: str, replicas: int) -> Step:
    pack = Pack([algorithms.get(name)()] * replicas, DIMS, range(replicas), dtype=torch.float64, width=replicas)
    pack.state.step = pack.phases[-1]
    return Step(pack, random_transitions(40), 16, Eager())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Layout, "bind", partialmethod(Layout.bind, as_one=True))
    return monkeypatch


@pytest.mark.parametrize(("name", "replicas"), PACKS, ids=str)
def test_what_a_gpu_computes_is_the_update_and_the_action(
    name: str, replicas: int, as_on_a_gpu: pytest.MonkeyPatch
) -> None:
    """Every algorithm's, twice: with merged sums, narrow products written out, and critics called as one."""
    gin.parse_config([*SMALL, *SHALLOW])
    step, rows = step_of(name, replicas), slice(0, replicas)
    core = SamplerCore(step.pack, 2, Eager())
    core._state.copy_(numbers(*core._state.shape))
    update, action = step._program(rows), core._program(rows, 0)
    graphs = [graph_of(update, CUDA), graph_of(action, CUDA)]
    as_on_a_gpu.undo()
    acted = action.function(action.tensors)
    assert float(acted.std()) > 0
    torch.testing.assert_close(graphs[1](*nested_tensors(action.tensors)), acted, rtol=1e-10, atol=1e-10)
    as_written = step_of(name, replicas)
    for _ in range(2):
        graphs[0](*nested_tensors(update.tensors))
        as_written()
    state = as_written.pack.state
    wanted = {"parameters": state.parameters, "moments": state.moments, "targets": state.targets}
    for part, value in {**wanted, "sums": as_written.sums}.items():
        for found, right in zip(nested_tensors(update.tensors[part]), nested_tensors(value), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


PRODUCTS = 156  # of an update of Diffusion-QL as written: see test_waste.py
STACKED = 23  # both critics: LAYERS each in the target, the loss, the actor's loss; their gradients 4 + 3 and 4
# The denoiser is called N times in the actor's chain and once in the denoising loss: its second, third and last layers
# have N + 1 gradients each, and of the first one the actions' columns N.
MERGED = 3 * N + (N - 1)
# The noisy action's way into each call of both chains, and out of it; out of the denoising loss's. Back into each
# output layer; back to the noisy action, but for the first one, which is noise. Back into the critics' output in both
# losses. The gradients of what all N timesteps share: the first layer's columns, the embedding's two layers.
NARROW = 2 * N + 2 * N + 1 + (N + 1) + (N - 1) + 2 + 3


def test_how_many_products_a_gpu_is_given(as_on_a_gpu: pytest.MonkeyPatch) -> None:
    found = products(graph_of(step_of("diffusion_ql", 1)._program(slice(0, 1)), CUDA))
    assert found == PRODUCTS - STACKED - MERGED - NARROW == 78
