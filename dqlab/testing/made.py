"""Made-up numbers, and questions that are asked of parts of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms.base import Batch
from dqlab.errors import first_line
from dqlab.noise import NoiseSpec, draw, generator_for
from dqlab.policies.base import Dims
from dqlab.training.compiled import trace
from dqlab.training.program import leaves, tree_map

DIMS = Dims(state=5, action=3)
BATCH = 7


def make_noise(specs: dict[str, NoiseSpec], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A draw of what `specs` ask for, with a leading axis of one replica."""
    values = draw(specs, generator_for(seed, "testing", 0), dtype)
    return {name: value.unsqueeze(0) for name, value in values.items()}


def make_batch(dims: Dims = DIMS, batch: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """A random batch of one replica; about a quarter of it terminal."""
    generator = generator_for(seed, "testing batch", 0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, dtype=dtype)

    action = normal(batch, dims.action).clamp(-dims.max_action, dims.max_action)
    terminal = (normal(batch) > 0.7).to(dtype)
    return Batch(normal(batch, dims.state), action, normal(batch), normal(batch, dims.state), terminal)


def one_noise(specs: dict[str, NoiseSpec], seed: int = 0) -> dict[str, Tensor]:
    """The same without the axis of replicas: what a function of one replica takes."""
    return {name: value[0] for name, value in make_noise(specs, seed).items()}


def check_device(function: Callable[..., Any], *values: Any) -> None:
    """Nothing is made on the host and nothing is read back: it runs on a device whose tensors have shapes only.

    Args:
        function: of nested tensors.
        values: its arguments, nested dicts and tuples of tensors.
    """
    try:
        result = function(*tree_map(lambda tensor: tensor.to("meta"), values))
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(
            f"it leaves the device of its arguments, or reads a value back: {first_line(error)}"
        ) from error
    for tensor in leaves(result):
        assert tensor.device.type == "meta", f"it gives a tensor on {tensor.device} for arguments on another device"


def check_pure(function: Callable[..., Any], *values: Any) -> Any:
    """Two calls give the same numbers, draw none of their own and leave their arguments alone; returns the numbers."""
    before, copies = torch.get_rng_state(), tree_map(torch.clone, values)
    first, second = function(*values), function(*values)
    assert torch.equal(torch.get_rng_state(), before), "it draws random numbers of its own"
    for given, copy in zip(leaves(values), leaves(copies), strict=True):
        assert torch.equal(given, copy), "it writes into its arguments"
    for one, other in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(one, other), "two calls differ"
    return first


def check_traceable(function: Callable[..., Any], *values: Any) -> None:
    """It consists of PyTorch's operations alone, so that it can be compiled; and the graph of them gives the same."""
    shape = values

    def flat(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        return tuple(leaves(function(*tree_map(lambda _: next(left), shape))))

    graph = trace(flat, leaves(values))
    for one, other in zip(graph(*leaves(values)), flat(*leaves(values)), strict=True):
        assert torch.allclose(one, other, atol=1e-9), "traced for compiling, it gives other numbers"
