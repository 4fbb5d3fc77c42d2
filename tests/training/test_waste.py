"""The update computes what the algorithm needs and nothing else: its operations, counted by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dqlab.algorithms.bc import BehaviourCloning
from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.data import Transitions
from dqlab.policies.base import Dims
from dqlab.training import Pack
from dqlab.training.execution.modes import Eager
from dqlab.training.execution.program import nested_tensors, trace_program, tree_map
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


def operations(algorithm: object, replicas: int = 1) -> Counter[str]:
    dims, n = Dims(17, 6), 50
    fields = torch.randn(n, 17), torch.randn(n, 6), torch.randn(n), torch.randn(n, 17), torch.zeros(n)
    data = Transitions(*fields, provenance=None)  # type: ignore[arg-type]
    pack = Pack([algorithm] * replicas, dims, range(replicas), width=replicas)  # type: ignore[list-item]
    program = Step(pack, data, 16, Eager())._program(slice(0, replicas))

    def flat(*values: torch.Tensor) -> None:
        given = iter(values)
        program.function(tree_map(lambda _: next(given), program.tensors))

    graph = trace_program(flat, nested_tensors(program.tensors)).graph
    names = [str(node.target).split(".") for node in graph.nodes if node.op == "call_function"]
    return Counter(name[1] for name in names if name[0] in ("aten", "dqlab"))


def products(counted: Counter[str]) -> int:
    return sum(counted[name] for name in ("mm", "addmm", "bmm", "baddbmm"))


def test_diffusion_ql_has_the_products_that_it_needs() -> None:
    counted = operations(DiffusionQL())
    assert sum(PRODUCTS.values()) == 156
    assert products(counted) == 156
    assert counted["exp"] + counted["exp_"] == MISHES == 54


def test_behaviour_cloning_has_the_products_that_it_needs() -> None:
    counted = operations(BehaviourCloning())
    assert products(counted) == CLONING + CLONING_BACK == 17
    assert counted["exp"] + counted["exp_"] == 4


@pytest.mark.parametrize("replicas", [1, 3])
def test_an_update_is_one_program_however_many_replicas(replicas: int) -> None:
    """Packed replicas share every operation; none is read back, none is drawn inside."""
    counted = operations(DiffusionQL(), replicas)
    assert products(counted) == 156
    forbidden = {"_local_scalar_dense", "item", "randn", "rand", "randint", "normal", "bernoulli", "nonzero"}
    assert not forbidden & set(counted)


def test_targets_and_averages_move_as_one_operation_each() -> None:
    """Two targets and, of the two trained networks, the first moments."""
    assert operations(DiffusionQL())["lerp_"] == 4
