"""Networks as flat parameter vectors, so that K replicas of one network are the rows of one matrix (K, P).

A module's `Layout` cuts a row (P,) back into named tensors; `Network` calls the module with them. Losses written for
one network run on K of them under `torch.vmap`; optimiser, clipping and moving averages work on the matrix. `Members`
are networks of one shape inside of another one, which a GPU calls as one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dqlab.errors import RunError
from dqlab.networks.precision import FULL, Precision


class Members(nn.ModuleList):
    """M networks; `alike` ones differ in their parameters' values only, and have no buffers."""

    def __init__(self, networks: Sequence[nn.Module], alike: bool = False) -> None:
        super().__init__(networks)
        self.alike = alike and len(networks) > 1
        self.together: Callable[..., Tensor] | None = None  # `map` of all members in one call; set with parameters

    def each(self, *inputs: Tensor) -> Tensor:
        """Every member's output for these inputs, stacked: (M, ...)."""
        return self.map(lambda member, *given: member(*given), *inputs)

    def map(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(member, *inputs)` of every member, stacked: (M, ...)."""
        if self.together is not None:
            return self.together(function, *inputs)
        return torch.stack([function(member, *inputs) for member in self])


ALIGNMENT = 16  # every parameter begins at a multiple of so many numbers: tensor cores want 16 bytes, processors 64


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a module's parameters, in the order of the flat vector, which has zeros between them."""

    module: nn.Module
    shapes: dict[str, torch.Size]
    sizes: list[int]
    precision: Precision
    members: tuple[str, int, Layout] | None = None
    """If all parameters are those of members that are alike: their name, how many they are, and one's layout."""

    @classmethod
    def of(cls, module: nn.Module, precision: Precision = FULL) -> Layout:
        """The layout of a module, to be called in some precision; the module's own values are no longer used."""
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        skeleton = copy.deepcopy(module).requires_grad_(False)
        sizes = [math.ceil(shape.numel() / ALIGNMENT) * ALIGNMENT for shape in shapes.values()]
        return cls(skeleton, shapes, sizes, precision, _members(skeleton, shapes))

    def to(self, device: torch.device) -> Layout:
        """The same layout with the module's buffers on another device."""
        self.module.to(device)
        return self

    @property
    def size(self) -> int:
        """P, the length of a row."""
        return sum(self.sizes)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> one row (P,); a RunError if a name is missing, unknown, or has another shape."""
        problems = sorted(set(self.shapes) ^ set(values)) or [
            f"{name}: {tuple(values[name].shape)} instead of {tuple(shape)}"
            for name, shape in self.shapes.items()
            if values[name].shape != shape
        ]
        if problems:
            raise RunError(f"These weights do not fit {type(self.module).__name__}: {'; '.join(problems[:4])}.")
        flat = (values[name].reshape(-1) for name in self.shapes)
        return torch.cat([pad(value, (0, size - len(value))) for value, size in zip(flat, self.sizes, strict=True)])

    def unflatten(self, row: Tensor) -> dict[str, Tensor]:
        """One row (P,) -> named views into it (one `split`, so that the backward pass is one `cat`)."""
        named = {}
        for part, (name, shape) in zip(torch.split(row, self.sizes), self.shapes.items(), strict=True):
            own = part if len(part) == shape.numel() else part[: shape.numel()]  # without the zeros behind it
            named[name] = own.view(shape)
        return named

    def bind(self, row: Tensor, as_one: bool | None = None) -> Network:
        """The network with the parameters of one row (P,); members `as_one`, by default wherever that is faster."""
        # on a CPU, where a stacked call is no faster, members are called one after the other
        if self.members is None or not (row.device.type != "cpu" if as_one is None else as_one):
            return Network(self.module, self.unflatten(row), self.precision)
        name, count, layout = self.members
        rows = row.view(count, -1)  # the members' parameters, one after the other: nothing is copied

        def call(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
            in_dims = (0, *len(inputs) * [None])
            return torch.vmap(lambda row, *given: function(layout.bind(row), *given), in_dims)(rows, *inputs)

        return Network(self.module, self.unflatten(row), self.precision, {name: call})


def _members(module: nn.Module, names: Collection[str]) -> tuple[str, int, Layout] | None:
    """The `members` of a layout of parameters with these names."""
    for name, child in module.named_children():
        if isinstance(child, Members) and child.alike and not list(child.buffers()) and len(set(map(repr, child))) == 1:
            layouts = [Layout.of(member) for member in child]
            expected = [f"{name}.{place}.{own}" for place, layout in enumerate(layouts) for own in layout.shapes]
            if list(names) == expected and all(layout.shapes == layouts[0].shapes for layout in layouts):
                return name, len(child), layouts[0]
    return None


@dataclass(frozen=True)
class Network:
    """A module called with parameters that live elsewhere; the module itself is not touched.

    `torch.func.functional_call` puts them into the module and takes them out again at every call: as slow as a small
    layer, and not for two threads at once. Here a copy of the module's frame holds them.
    """

    module: nn.Module
    parameters: dict[str, Tensor]
    precision: Precision = FULL
    together: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)  # what calls members of a name as one

    @cached_property
    def _bound(self) -> nn.Module:
        named = self.module.named_parameters()
        bound = _with_parameters(self.module, {id(value): self.parameters[name] for name, value in named})
        for name, call in self.together.items():
            bound.get_submodule(name).__dict__["together"] = call
        return bound

    def __call__(self, *args: Tensor) -> Tensor:
        """The module's output for its inputs, in the parameters' type whatever the precision of its products."""
        return self.call("__call__", *args)

    def part(self, name: str) -> Network:
        """A submodule, bound likewise."""
        module = self.module.get_submodule(name)
        own = {key: self.parameters[f"{name}.{key}"] for key, _ in module.named_parameters()}
        return Network(module, own, self.precision)

    def call(self, method: str, *args: Any) -> Any:
        """The output of another method of the module, likewise."""
        own = next(iter(self.parameters.values()))
        with self.precision.region(own.device):
            out = getattr(self._bound, method)(*args)
        return out.to(own.dtype) if isinstance(out, Tensor) else out


def _with_parameters(module: nn.Module, values: Mapping[int, Tensor]) -> nn.Module:
    """A module that shares all with another but its parameters: tensors, by the identity of what they replace."""
    # a module keeps its parameters and its children in these two dictionaries; PyTorch does not document them
    bound: nn.Module = object.__new__(type(module))
    own = {name: value if value is None else values[id(value)] for name, value in module._parameters.items()}
    children = {name: child and _with_parameters(child, values) for name, child in module._modules.items()}
    bound.__dict__ = {**module.__dict__, "_parameters": own, "_modules": children}
    return bound


def pull_back(function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to x of the sum of function(x) * gradient, as a constant.

    PyTorch's derivatives of activations are single operations only where nobody differentiates them again.
    """
    pull = torch.func.vjp(function, x)[1]
    with torch.no_grad():
        (pulled,) = pull(gradient)
    return pulled.detach()  # type: ignore[no-any-return]
