"""A program: a function of tensors that stay where they are, so that it can be compiled, captured and replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TensorTree = dict[str, Any]
"""Tensors by name, nested in dicts and (named) tuples."""


@dataclass(frozen=True)
class Program:
    """What an execution mode runs, again and again, on the same tensors.

    Attributes:
        function: from tensors to tensors. It may change some of its arguments in place; it reads nothing else that
            changes, draws no random numbers, and never looks at a value. Whoever makes a program has called all of it
            once before, so that constants which are made at first use exist.
        tensors: its arguments. New input is written into them, in place.
        changes: names of those that it changes.
    """

    function: Callable[[TensorTree], Any]
    tensors: TensorTree
    changes: tuple[str, ...] = ()

    def with_copies(self) -> TensorTree:
        """The tensors, with copies in place of those that a run changes: a run on them leaves no trace."""
        copies = {name: tree_map(torch.clone, self.tensors[name]) for name in self.changes}
        return {**self.tensors, **copies}


RunProgram = Callable[[], Any]


def to_device(device: torch.device, values: Tensor) -> Tensor:
    """Values on a device; from the host to a GPU out of page-locked memory, for which the host need not wait."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def tree_map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply `function` to every tensor in nested dicts, tuples and named tuples."""
    if isinstance(value, tuple):
        items = [tree_map(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, Mapping):
        return {key: tree_map(function, item) for key, item in value.items()}
    return function(value)


def nested_tensors(value: Any) -> list[Tensor]:
    """Every tensor in nested dicts and tuples."""
    if isinstance(value, Tensor):
        return [value]
    children = value.values() if isinstance(value, Mapping) else value
    return [leaf for child in children for leaf in nested_tensors(child)]


def concatenate_nested(parts: list[Any]) -> Any:
    """Concatenate, along the first axis, the tensors of equally nested values; one part is handed back as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Mapping):
        return {key: concatenate_nested([part[key] for part in parts]) for key in first}
    return torch.cat(parts)
