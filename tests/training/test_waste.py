"""The update computes what the algorithm needs and nothing else: its operations, counted by hand; and CPU threads."""

from __future__ import annotations

import os

import pytest
import torch
from made_updates import DIMS, counted, graph_of, products, random_transitions
from torch.fx import GraphModule

from dqlab import machine
from dqlab.algorithms import Algorithm
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.machine import cores
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.training import Pack
from dqlab.training.execution.modes import Eager
from dqlab.training.probe import flops_of_updates
from dqlab.training.programs import Step

N = 5
LAYERS = 4  # of the denoiser and of each critic; the time embedding has two of its own

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


def operations(algorithm: Algorithm, replicas: int = 1) -> GraphModule:
    pack = Pack([algorithm] * replicas, DIMS, range(replicas), width=replicas)
    return graph_of(Step(pack, random_transitions(50, torch.float32), 16, Eager())._program(slice(0, replicas)))


def test_behaviour_cloning_has_the_products_that_it_needs() -> None:
    graph = operations(BehaviourCloning())
    assert products(graph) == CLONING + CLONING_BACK == 17
    assert counted(graph)["exp"] + counted(graph)["exp_"] == 4


@pytest.mark.parametrize("replicas", [1, 3])
def test_diffusion_ql_has_the_operations_that_it_needs(replicas: int) -> None:
    """Packed replicas share every operation; none is read back, none is drawn inside.

    Two targets and, of the two trained networks, the first moments move as one operation each.
    """
    graph = operations(DiffusionQL(), replicas)
    found = counted(graph)
    assert products(graph) == sum(PRODUCTS.values()) == 156
    assert found["lerp_"] == 4
    if replicas == 1:
        assert found["exp"] + found["exp_"] == MISHES == 54
    forbidden = {"_local_scalar_dense", "item", "randn", "rand", "randint", "normal", "bernoulli", "nonzero"}
    assert not forbidden & set(found)


SMALL_DIMS, BATCH, HIDDEN, TIME = Dims(5, 3), 8, 32, 4


def denoiser(state_dim: int, action_dim: int) -> MLPDenoiser:
    return MLPDenoiser(state_dim, action_dim, hidden_dim=HIDDEN, time_dim=TIME)


def test_operations_of_behaviour_cloning_by_hand() -> None:
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
    pack = Pack([BehaviourCloning(policy=lambda: DiffusionPolicy(denoiser=denoiser))], SMALL_DIMS, [0])
    assert flops_of_updates(pack, BATCH, range(1)) == 3 * sum(each) - each[0]


def test_replicas_cost_the_same_alone_and_together() -> None:
    algorithm = DiffusionQL(policy=lambda: DiffusionPolicy(denoiser=denoiser))
    alone = flops_of_updates(Pack([algorithm], SMALL_DIMS, [0]), BATCH, range(1))
    assert alone > 0
    assert flops_of_updates(Pack([algorithm] * 3, SMALL_DIMS, [0, 1, 2]), BATCH, range(1)) == 3 * alone
    assert flops_of_updates(Pack([algorithm] * 3, SMALL_DIMS, [0, 1, 2], width=3), BATCH, range(1)) == 3 * alone


def test_counting_changes_nothing() -> None:
    pack = Pack([DiffusionQL(policy=lambda: DiffusionPolicy(denoiser=denoiser))], SMALL_DIMS, [0])
    before = pack.weights(0)
    generator = torch.get_rng_state()
    flops_of_updates(pack, BATCH, range(1))
    after = pack.weights(0)
    assert all(torch.equal(before[net][name], after[net][name]) for net in before for name in before[net])
    assert torch.equal(generator, torch.get_rng_state())
    assert pack.state.step == 0


@pytest.mark.parametrize(
    ("cores", "rows", "wanted"), [(8, 64, 1), (8, 256, 1), (8, 2048, 2), (2, 10**6, 2), (1, 4096, 1)]
)
def test_threads_by_size(monkeypatch: pytest.MonkeyPatch, cores: int, rows: int, wanted: int) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert machine.threads_for(rows) == wanted


def test_only_the_cores_this_process_may_use_count() -> None:
    assert cores() == len(os.sched_getaffinity(0))
