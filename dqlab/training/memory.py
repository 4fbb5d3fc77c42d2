"""How much memory a pack will take, told before it is built, and how many replicas can be computed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dqlab.algorithms.base import Algorithm
from dqlab.errors import ConfigError
from dqlab.machine import free_memory
from dqlab.noise import CHUNK, draw_noise, generator_for
from dqlab.policies.base import Dims
from dqlab.training.execution.program import nested_tensors
from dqlab.training.pack import Pack
from dqlab.training.rehearsal import made_up_update

USABLE = 0.9
"""Share of the free memory that is counted on."""
WORKSPACES = {"cuda": 4 * 32 * 2**20}
"""Bytes that libraries take, by type of device: cuBLAS a workspace for PyTorch's own stream and for that of recordings,
one each for forward and backward passes, of up to 32 MiB (on Hopper; less on others)."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one replica takes.

    Attributes:
        kept: for as long as it is trained: parameters, moments, targets, noise drawn ahead.
        working: while its update is computed: what the backward passes keep, and gradients.
        copied: while its program is made ready: of the state, which trial runs change and then get back.
    """

    kept: int
    working: int
    copied: int = 0

    @property
    def together(self) -> int:
        """Bytes of a replica that is computed together with others, beside what is kept of all."""
        return self.working + self.copied

    def width(self, replicas: int, free: int) -> int:
        """How many replicas can be computed together, in that many free bytes.

        Raises:
            ConfigError: not even one at a time.
        """
        left = int(free * USABLE) - replicas * self.kept
        if left < self.together:
            wanted = (replicas * self.kept + self.together) / USABLE
            raise ConfigError(
                f"{replicas} replicas need {_gigabytes(wanted)}, of which {_gigabytes(free)} are free. "
                "Train fewer seeds together, or lower Training.batch_size."
            )
        return min(replicas, left // self.together)


def replica_memory(algorithm: Algorithm, dims: Dims, batch_size: int, dtype: torch.dtype = torch.float32) -> MemoryNeed:
    """What one replica of an algorithm needs, found by computing its losses on two small batches.

    What the backward passes keep grows linearly with the batch, so two sizes tell it for every other.
    """
    pack = Pack([algorithm], dims, [0], dtype=dtype, device="cpu")
    small, large = 8, 16
    saved = {rows: _saved_bytes(pack, rows) for rows in (small, large)}
    a_row = (saved[large] - saved[small]) / (large - small)
    activations = saved[small] + a_row * (batch_size - small)
    state = pack.state
    size = sum(_bytes(tensor) for tensor in nested_tensors([state.parameters, state.moments, state.targets]))
    specs = algorithm.update_noise(dims, batch_size)
    one = draw_noise(specs, generator_for(0, "memory", 0), dtype)
    noise = CHUNK * (sum(map(_bytes, one.values())) + 8 * batch_size)
    return MemoryNeed(size + noise, int(activations) + _gradient_bytes(pack), size)


def _gradient_bytes(pack: Pack) -> int:
    """Bytes of the gradients that an update holds at once, of a copy of the largest, and of what targets lag behind."""
    sizes = {name: _bytes(matrix) for name, matrix in pack.state.parameters.items()}
    largest = max(sizes.values())
    lagged = {target.source for target in pack.algorithm.targets().values() if target.lags}
    held = sum(sizes.values()) if pack.algorithm.joint_update else largest
    return held + largest + sum(sizes[name] for name in lagged)


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that replicas may take: what is free, without what libraries will take."""
    return free_memory(device) - WORKSPACES.get(device.type, 0)


def _saved_bytes(pack: Pack, rows: int) -> int:
    """Bytes that one update holds at once: what the largest loss's backward pass keeps, and its widest single result.

    Parameters do not count.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in nested_tensors(pack.tensors(slice(0, 1)))}
    peak = 0
    for name in pack.trained:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = pack.loss(name, pack.tensors(slice(0, 1)), *made_up_update(pack, rows))
        with _Widest(own) as widest, torch.no_grad():
            pack.loss(name, pack.tensors(slice(0, 1)), *made_up_update(pack, rows))
        del result
        peak = max(peak, sum(kept.values()) + widest.bytes)
    return peak


class _Widest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the largest result of a single operation: held for a moment, where nothing is kept too.

    Args:
        own: addresses of the parameters, whose views do not count.
    """

    def __init__(self, own: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own, self.bytes = own, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would import its compiler, seconds, to keep it from looking in here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in self.own:
            self.bytes = max(self.bytes, _bytes(result))
        return result


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
