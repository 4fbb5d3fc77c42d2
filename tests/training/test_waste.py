"""The update computes what the algorithm needs and nothing else: its operations, counted by hand."""

from __future__ import annotations

import pytest
import torch
from made_updates import DIMS, counted, graph_of, products, random_transitions
from torch.fx import GraphModule

from dqlab.algorithms import Algorithm
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.training import Pack
from dqlab.training.execution.modes import Eager
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
