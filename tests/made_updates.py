"""Made-up transitions, and programs of updates as graphs of operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from dqlab.data import Transitions
from dqlab.policies.base import Dims
from dqlab.training.execution.program import Program, nested_tensors, trace_program, tree_map

DIMS = Dims(17, 6)
CPU = torch.device("cpu")
Weights = Mapping[str, Mapping[str, Tensor]]


def random_transitions(rows: int, dtype: torch.dtype = torch.float64, device: torch.device = CPU) -> Transitions:
    """Of walker2d's sizes; one in fifteen is terminal."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    states, action = (normal(rows, DIMS.state), normal(rows, DIMS.state)), normal(rows, DIMS.action).clamp(-1, 1)
    terminal = (normal(rows) > 1.5).to(dtype)
    made = (states[0], action, normal(rows), states[1], terminal)
    return Transitions(*made, provenance=None, next_action=normal(rows, DIMS.action).clamp(-1, 1))  # type: ignore[arg-type]


def largest_difference(one: Weights, other: Weights) -> float:
    """Of the weights of two replicas, whose networks have the same names."""
    assert one.keys() == other.keys()
    return max(float((one[net][key] - other[net][key]).abs().max()) for net in one for key in one[net])


def graph_of(program: Program, device: torch.device = CPU) -> GraphModule:
    """The program's operations, as it is compiled for a device."""

    def flat(*values: Tensor) -> Any:
        given = iter(values)
        return program.function(tree_map(lambda _: next(given), program.tensors))

    return trace_program(flat, nested_tensors(program.tensors), device)


def counted(graph: GraphModule) -> Counter[str]:
    """How often each operation stands in a graph."""
    names = [str(node.target).split(".") for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(name[1] for name in names if name[0] in ("aten", "dqlab"))


def products(graph: GraphModule) -> int:
    """How many products of matrices there are in a graph."""
    return sum(counted(graph)[name] for name in ("mm", "addmm", "bmm", "baddbmm", "linear"))
