"""An update's operations, counted by hand: what the algorithm needs and nothing else; on a GPU sums are one product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod

import gin
import pytest
import torch
from conftest import SHALLOW, SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import DIMS, counted, graph_of, products, random_transitions
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from dqlab.algorithms import Algorithm, algorithms
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.networks import Layout
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.training import Pack
from dqlab.training.execution.modes import Eager
from dqlab.training.execution.products import merge_sums
from dqlab.training.execution.program import nested_tensors
from dqlab.training.probe import flops_of_updates
from dqlab.training.programs import SamplerCore, Step

CUDA = torch.device("cuda")
N, LAYERS = 5, 4  # diffusion steps; layers of the denoiser and of each critic, beside the time embedding's two

# Matrix products of a chain: once the two of the time embedding and the first layer's for states and for timesteps,
# then at each step the noisy action's through four layers.
CHAIN = 4 + LAYERS * N
# Backwards: at each step weights and inputs of four layers, but not the first step's input, which is noise. Once the
# weights for states and timesteps, the timesteps' input, and the embedding's two weights and one input.
CHAIN_BACK = 2 * LAYERS * N - 1 + 3 + 3
# The denoising loss: four layers and the embedding's two; all weights; inputs of all but the embedding's first layer.
CLONING, CLONING_BACK = LAYERS + 2, LAYERS + 2 + LAYERS + 1
CRITICS = 2 * LAYERS
PRODUCTS = {
    "target": CHAIN + CRITICS,
    "critic": CRITICS + CRITICS + 2 * (LAYERS - 1),  # weights; inputs of all layers but the first
    "cloning": CLONING + CLONING_BACK,
    "improvement": CHAIN + CHAIN_BACK + CRITICS + CRITICS,  # the critics' inputs, none of their weights
}
# Mish: three layers a pass of a denoiser or critic, one of the embedding a chain or loss; each has one exponential.
MISHES = (3 * N + 1) + 6 + 6 + (3 + 1) + (3 * N + 1) + 6
STACKED = 23  # both critics: LAYERS each in the target, the loss, the actor's loss; their gradients 4 + 3 and 4
# The denoiser is called N times in the actor's chain and once in the denoising loss: its second, third and last layers
# have N + 1 gradients each, and of the first one the actions' columns N.
MERGED = 3 * N + (N - 1)
# The noisy action's way into each call of both chains, and out of it; out of the denoising loss's. Back into each
# output layer; back to the noisy action, but for the first one, which is noise. Back into the critics' output in both
# losses. The gradients of what all N timesteps share: the first layer's columns, the embedding's two layers.
NARROW = 2 * N + 2 * N + 1 + (N + 1) + (N - 1) + 2 + 3


def step_of(algorithm: Algorithm, replicas: int = 1, dtype: torch.dtype = torch.float64) -> Step:
    pack = Pack([algorithm] * replicas, DIMS, range(replicas), dtype=dtype, width=replicas)
    pack.state.step = pack.phases[-1]
    return Step(pack, random_transitions(40, dtype), 16, Eager())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Layout, "bind", partialmethod(Layout.bind, as_one=True))
    return monkeypatch


@pytest.mark.parametrize(
    ("algorithm", "replicas", "wanted", "exponentials"),
    [
        (BehaviourCloning(), 1, CLONING + CLONING_BACK, 4),
        (DiffusionQL(), 1, sum(PRODUCTS.values()), MISHES),
        (DiffusionQL(), 3, sum(PRODUCTS.values()), None),
    ],
)
def test_an_update_has_the_operations_that_it_needs(
    algorithm: Algorithm, replicas: int, wanted: int, exponentials: int | None
) -> None:
    """Packed replicas share every operation; none is read back, none is drawn inside.

    A target, and of a trained network the first moments, move as one operation each: two and two of Diffusion-QL.
    """
    assert (CLONING + CLONING_BACK, sum(PRODUCTS.values()), MISHES) == (17, 156, 54)
    graph = graph_of(*step_of(algorithm, replicas, torch.float32)._programs(0))
    found = counted(graph)
    assert products(graph) == wanted
    assert exponentials in (None, found["exp"] + found["exp_"])
    assert found["lerp_"] == (1 if algorithm == BehaviourCloning() else 4)
    forbidden = {"_local_scalar_dense", "item", "randn", "rand", "randint", "normal", "bernoulli", "nonzero"}
    assert not forbidden & set(found)


def test_how_many_products_a_gpu_is_given(as_on_a_gpu: pytest.MonkeyPatch) -> None:
    found = products(graph_of(*step_of(DiffusionQL())._programs(0), CUDA))
    assert found == sum(PRODUCTS.values()) - STACKED - MERGED - NARROW == 156 - 78


PACKS = [("diffusion_ql", 1), *((name, 3) for name in algorithms.names())]


@pytest.mark.parametrize(("name", "replicas"), PACKS, ids=str)
def test_what_a_gpu_computes(name: str, replicas: int, as_on_a_gpu: pytest.MonkeyPatch) -> None:
    """Two updates of every algorithm, and an action: with merged sums, narrow products written out, critics as one."""
    gin.parse_config([*SMALL, *SHALLOW])
    algorithm, rows = algorithms.get(name)(), slice(0, replicas)
    step = step_of(algorithm, replicas)
    core = SamplerCore(step.pack, 2, Eager())
    core._state.copy_(numbers(*core._state.shape))
    action, first = core._program(rows, 0), step.pack.state.step
    updates = {
        step.pack.updating_at(kind): step._programs(kind)[0] for kind in step.pack.kinds(range(first, first + 2))
    }
    graphs, acting = {kind: graph_of(update, CUDA) for kind, update in updates.items()}, graph_of(action, CUDA)
    as_on_a_gpu.undo()
    acted = action.function(action.tensors)
    assert float(acted.std()) > 0
    torch.testing.assert_close(acting(*nested_tensors(action.tensors)), acted, rtol=1e-10, atol=1e-10)
    as_written = step_of(algorithm, replicas)
    for number in (first, first + 1):
        kind = step.pack.updating_at(number)
        graphs[kind](*nested_tensors(updates[kind].tensors))
        as_written()
    state = as_written.pack.state
    wanted = {"parameters": state.parameters, "moments": state.moments, "targets": state.targets}
    for part, value in {**wanted, "sums": as_written.sums}.items():
        for found, right in zip(nested_tensors(updates[kind].tensors[part]), nested_tensors(value), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


def merged(function: Callable[..., Tensor | tuple[Tensor, ...]], *values: Tensor) -> tuple[GraphModule, int]:
    """The graph of a function after sums in it were merged, which gives what it gave, and how many terms that saved."""
    graph = make_fx(function, tracing_mode="fake")(*values)
    saved = merge_sums(graph.graph)
    graph.graph.lint()
    graph.recompile()
    torch.testing.assert_close(graph(*values), function(*values), rtol=1e-12, atol=1e-12)
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
    assert products(graph) == len(rows) + 1  # one for each call, and one for all gradients


def twice(x: Tensor) -> Tensor:
    return x + x


def wanted_itself(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    product = a @ b
    return product + b @ c, product.exp()


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


def through_a_gate(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """A layer feeds two others, called twice: what was merged is a factor of what is merged next."""

    def call(x: Tensor, stem: Tensor, one: Tensor, other: Tensor) -> Tensor:
        hidden = x @ stem
        return (hidden @ one).tanh() * (hidden @ other).sigmoid()

    weights = [value.detach().requires_grad_() for value in (b, c, d)]
    total = call(a, *weights).sum() + call(a + 1, *weights).square().sum()
    return torch.stack(torch.autograd.grad(total, weights))


def a_thousand(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    total = a @ b
    for number in range(1000):
        total = total + (c + number) @ d
    return total


@pytest.mark.parametrize(
    ("function", "saved"),
    [
        (lambda a, b, c, d: twice(a @ b), 0),
        (lambda a, b, c, d: twice(a.mean(0)) + twice(a.amax(0)), 0),
        (lambda a, b, c, d: ((a @ b).exp() + c) + (a @ b).exp(), 0),
        (lambda a, b, c, d: (a @ b + c @ d) @ a + d @ a, 2),
        (lambda a, b, c, d: (a @ b + c @ d).t() + d @ a, 1),
        (lambda a, b, c, d: torch.add(a @ b, c @ d, alpha=2) + d @ a, 0),
        (lambda a, b, c, d: a.sum() + b.sum() + c.sum(-1) + d.sum(1, keepdim=True) + c.sum((0, 1)), 0),
        (lambda a, b, c, d: a.sum().sum(0) + b.sum().sum(0), 0),
        (lambda a, b, c, d: a[:0].t() @ b[:0] + c[:0].t() @ d[:0], 1),
        # of different shapes, but for their results'; a sum over rows is no product
        (lambda a, b, c, d: (a[:1, :2] @ b[:2] + a[:1].sum(0, keepdim=True)) + (c[:1] @ d + a[:1]), 1),
        (wanted_itself, 0),
        (written_between_stacks, 2),
        (written_into_a_list, 0),
        (through_a_gate, 5),
        (a_thousand, 1000),
    ],
)
def test_odd_sums_are_what_they_were(function: Callable[..., Tensor], saved: int) -> None:
    assert merged(function, *(numbers(3, 3, seed=seed) for seed in range(4)))[1] == saved


SMALL_DIMS, BATCH, HIDDEN, TIME = Dims(5, 3), 8, 32, 4


def policy() -> DiffusionPolicy:
    return DiffusionPolicy(denoiser=lambda *sizes: MLPDenoiser(*sizes, hidden_dim=HIDDEN, time_dim=TIME))


def test_floating_point_operations_of_behaviour_cloning_by_hand() -> None:
    """A layer from n to m: 2 B n m operations for its output, as many for its weights' gradient, and as many for its
    input's, which only the first layer of the time embedding does not need."""
    layers = [
        (TIME, 2 * TIME),
        (2 * TIME, TIME),
        (3 + TIME + 5, HIDDEN),
        (HIDDEN, HIDDEN),
        (HIDDEN, HIDDEN),
        (HIDDEN, 3),
    ]
    each = [2 * BATCH * n * m for n, m in layers]
    pack = Pack([BehaviourCloning(policy=policy)], SMALL_DIMS, [0])
    assert flops_of_updates(pack, BATCH, range(1)) == 3 * sum(each) - each[0]


def test_replicas_cost_the_same_alone_and_together_and_counting_changes_nothing() -> None:
    alone, *packs = (
        Pack([DiffusionQL(policy=policy)] * k, SMALL_DIMS, range(k), width=w) for k, w in ((1, 1), (3, 1), (3, 3))
    )
    before, generator = alone.weights(0), torch.get_rng_state()
    cost = flops_of_updates(alone, BATCH, range(1))
    assert cost > 0
    assert [flops_of_updates(pack, BATCH, range(1)) for pack in packs] == [3 * cost] * 2
    torch.testing.assert_close(alone.weights(0), before, rtol=0, atol=0)
    assert torch.equal(generator, torch.get_rng_state())
    assert alone.state.step == 0
