"""Execution modes: how a pack's update is run. The update is one object, the way it is executed another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from dqlab.algorithms.base import Batch
from dqlab.registry import Registry

Update = Callable[[Batch, Mapping[str, Tensor]], dict[str, Tensor]]

execution_modes: Registry[Callable[[Update], Update]] = Registry(
    "execution", "How the update is executed on the device; all modes compute the same."
)


@execution_modes.register("eager", source="PyTorch")
def eager(update: Update) -> Update:
    """Operation by operation."""
    return update
