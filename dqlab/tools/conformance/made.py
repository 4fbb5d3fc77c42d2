"""Made-up numbers, and what is asked of many kinds: of functions of nested dicts and tuples of tensors, of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dqlab.data import Batch
from dqlab.errors import DqlabError, first_line, message_of
from dqlab.networks import Layout
from dqlab.noise import NoiseSpec, draw_noise, generator_for
from dqlab.policies.base import Dims
from dqlab.training.execution.program import nested_tensors, trace_program, tree_map


class UncheckedError(Exception):
    """Why a component's behaviour was not looked at, such as an extra that is not installed."""


@contextmanager
def unchecked(kind: type[DqlabError], saying: str = "", why: str = "") -> Iterator[None]:
    """Within this, such an error that says something is why a component is not looked at."""
    try:
        yield
    except kind as error:
        if saying not in str(error):
            raise
        raise UncheckedError(why + message_of(error)) from error


DIMS = Dims(state=5, action=3)
BATCH = 7


def make_noise(specs: dict[str, NoiseSpec], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A draw of what `specs` ask for, with a leading axis of one replica."""
    return {name: value.unsqueeze(0) for name, value in one_noise(specs, seed, dtype).items()}


def one_noise(specs: dict[str, NoiseSpec], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The same without the axis of replicas: what a function of one replica takes."""
    return draw_noise(specs, generator_for(seed, "testing", 0), dtype)


def make_batch(
    dims: Dims = DIMS, batch: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float64, next_action: bool = True
) -> Batch:
    """A random batch of one replica, about a quarter of it terminal; and next actions; of chunks, if `dims` say so."""
    generator = generator_for(seed, "testing batch", 0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator, dtype=dtype)

    action = normal(batch, dims.action).clamp(-dims.max_action, dims.max_action)
    terminal = (normal(batch) > 0.7).to(dtype)
    reward = normal(batch) if dims.chunk == 1 else normal(batch, dims.chunk)
    made = Batch(normal(batch, dims.state), action, reward, normal(batch, dims.state), terminal)
    return made._replace(next_action=normal(batch, dims.action).clamp(-1, 1)) if next_action else made


def check_shape(what: str, value: Tensor | NDArray[Any], *shape: int) -> None:
    """A tensor, or an array, has that shape."""
    assert value.shape == shape, f"{what}: shape {tuple(value.shape)} instead of {shape}"


def check_same(found: Any, wanted: Any, said: str, rtol: float = 0.0, atol: float = 0.0, nan: bool = False) -> None:
    """Nested tensors, arrays and numbers, without NaN (or with) are the same, in shape and type too; `said` if not."""
    try:
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, equal_nan=nan)
    except AssertionError as error:  # its own `msg` is not said of other lengths or keys
        raise AssertionError(said) from error


def check_device(function: Callable[..., Any], *values: Any) -> None:
    """Nothing is made on the host and nothing is read back: it runs on a device whose tensors have shapes only."""
    try:
        result = function(*tree_map(lambda tensor: tensor.to("meta"), values))
    except (RuntimeError, NotImplementedError) as error:
        said = f"it leaves the device of its arguments, or reads a value back: {first_line(error)}"
        raise AssertionError(said) from error
    for tensor in nested_tensors(result):
        assert tensor.device.type == "meta", f"it gives a tensor on {tensor.device} for arguments on another device"


def check_pure(function: Callable[..., Any], *values: Any) -> Any:
    """Two calls give the same numbers, draw none of their own and leave their arguments alone; returns the numbers."""
    before, copies = torch.get_rng_state(), copy.deepcopy(values)
    first, second = function(*values), function(*values)
    check_same(torch.get_rng_state(), before, "it draws random numbers of its own")
    check_same(values, copies, "it writes into its arguments", nan=True)
    check_same(first, second, "two calls differ, or give NaN")
    return first


def check_traceable(function: Callable[..., Any], *values: Any) -> None:
    """It consists of PyTorch's operations alone, so that it can be compiled; and the graph of them gives the same."""

    def flat(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        return tuple(nested_tensors(function(*tree_map(lambda _: next(left), values))))

    given = nested_tensors(values)
    found = tuple(trace_program(flat, given)(*given))
    check_same(found, flat(*given), "traced for compiling, it gives other numbers", rtol=1e-5, atol=1e-9)


def check_function(function: Callable[..., Any], *values: Any) -> Any:
    """All that is asked of every function of tensors: pure, on whatever device, traceable; returns its numbers."""
    numbers = check_pure(function, *values)
    check_device(function, *values)
    check_traceable(function, *values)
    return numbers


def check_vmapped(function: Callable[..., Any], *replicas: Any) -> None:
    """Under `vmap` every replica gives what it gives alone; a replica is a tuple of the function's nested arguments."""
    columns = zip(*(nested_tensors(values) for values in replicas), strict=True)
    stacked = iter([torch.stack(column) for column in columns])
    values = tree_map(lambda _: next(stacked), replicas[0])
    together = torch.vmap(lambda *given: tuple(nested_tensors(function(*given))), randomness="error")(*values)
    for index, alone in enumerate(replicas):
        wanted = tuple(nested_tensors(function(*alone)))
        check_same(tuple(each[index] for each in together), wanted, "stacked differs from alone", rtol=1e-5, atol=1e-8)


def with_moved_parameters(module: nn.Module, size: float = 0.1) -> nn.Module:
    """The module in float64, every parameter moved by normal noise: a layer that begins with zeros hides the others."""
    module = module.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=size)
    return module


def check_independent_rows(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """A row of the output depends on that row of the inputs, and on no other."""
    out = function(*inputs)
    changed = function(*(torch.cat([value[:1] + 1, value[1:]]) for value in inputs))
    assert not torch.allclose(out, function(*(value.flip(0) for value in inputs))), "its inputs are ignored"
    mixed = "a row depends on other rows, as the batch statistics of BatchNorm make it (LayerNorm has none)"
    assert torch.allclose(out[1:], changed[1:]), mixed


def check_copies(make: Callable[[], nn.Module], module: nn.Module, *inputs: Tensor) -> None:
    """In float32 it gives float32, close to what float64 gives; another one with its state dict gives the same."""
    single = copy.deepcopy(module).float()
    out = single(*(value.float() if value.is_floating_point() else value for value in inputs))
    assert out.dtype == torch.float32, f"in float32 it gives {out.dtype}"
    assert torch.allclose(out.double(), module(*inputs), atol=1e-4, rtol=1e-3), "float32 and float64 differ"
    other = make().double()
    other.load_state_dict(module.state_dict())
    check_same(other(*inputs), module(*inputs), "read back from its state dict it gives something else")


def check_module(module: nn.Module, use: Callable[..., Any], *inputs: Any) -> None:
    """As `use(network, *inputs)` a network in float64 is pure, trains whole, can be stacked, compiled and moved."""
    layouts = {device: Layout.of(module).to(torch.device(device)) for device in ("cpu", "meta")}
    row = layouts["cpu"].flatten(dict(module.named_parameters())).detach()

    def run(row: Tensor, *inputs: Any) -> tuple[Any, Tensor]:
        """What the use gives, and the gradient of its sum of squares with respect to the parameters."""
        row = row.detach().requires_grad_()
        out = use(layouts[row.device.type].bind(row), *inputs)
        squares = torch.stack([leaf.square().sum() for leaf in nested_tensors(out)])
        (gradient,) = torch.autograd.grad(squares.sum(), row)
        return tree_map(torch.detach, out), gradient

    _, gradient = check_function(run, row, *inputs)
    assert bool(torch.isfinite(gradient).all()), "a gradient is not finite"
    still = [name for name, values in layouts["cpu"].unflatten(gradient).items() if not bool(values.any())]
    assert not still, f"no gradient reaches {', '.join(still)}"
    check_vmapped(lambda row: use(layouts["cpu"].bind(row), *inputs), (row,), (0.9 * row,))
