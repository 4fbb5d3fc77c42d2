"""What is found out before step 0, on made-up numbers: whether the wiring works, shared scalars, memory, arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import flop_registry

from dqlab.algorithms import Algorithm
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.machine import free_memory
from dqlab.networks.precision import FULL, Precision
from dqlab.noise import CHUNK, Noise, NoiseSpec, draw_noise, generator_for
from dqlab.policies.base import Dims
from dqlab.training.execution.program import nested_tensors
from dqlab.training.execution.torch_internals import OperationObserver
from dqlab.training.pack import Pack


@dataclass
class Probe:
    """Tries an algorithm, one replica on the CPU; what is asked for is found out once, and kept.

    `dtype` is that of the run's parameters, `precision` that of the networks' matrix products.
    """

    algorithm: Algorithm
    dims: Dims
    batch_size: int = 2
    dtype: torch.dtype = torch.float32
    precision: Precision = FULL

    def check_wiring(self) -> None:
        """Make every kind of update, and act, once; a ConfigError where the losses do not report what selection goes
        by, a component draws random numbers of its own, or changes buffers; or whatever it raises.
        """
        _update_and_act(Pack([self.algorithm], self.dims, [0], precision=self.precision))

    @cached_property
    def shared_hyperparameters(self) -> frozenset[str]:
        """Scalars that an update, or an action, reads from the algorithm itself, and not from `hyper`."""
        algorithm, read = self.algorithm, set[str]()
        kind: Any = type(algorithm)

        def note(self: Any, name: str) -> Any:
            read.add(name)
            return object.__getattribute__(self, name)

        methods = {"__getattribute__": note, "hyper": lambda self: algorithm.hyper()}
        watched = object.__new__(type(kind)(kind.__name__, (kind,), methods))
        for field in fields(kind):  # not what is cached: it was made from fields
            object.__setattr__(watched, field.name, getattr(algorithm, field.name))
        pack = Pack([watched], self.dims, [0])
        _update_and_act(pack)
        state = torch.zeros(1, 2, self.dims.state, dtype=pack.dtype)
        pack.sample_action(state, made_up_noise(pack, watched.sample_action_noise(self.dims, 2)))
        return frozenset(read & set(algorithm.hyper()))

    @cached_property
    def memory(self) -> MemoryNeed:
        """About what one replica needs, from what the backward passes of one update keep."""
        pack = Pack([self.algorithm], self.dims, [0], dtype=self.dtype, device="cpu")
        batch, noise = made_up_update(pack, self.batch_size)
        held = max(_loss_bytes(pack, name, batch, noise) for name in pack.trained)
        parameters = _bytes(pack.state.parameters)
        state = parameters + _bytes([pack.state.moments, pack.state.targets])
        ahead = CHUNK * (_bytes(noise) + 8 * self.batch_size)
        return MemoryNeed(state + ahead, held + 2 * parameters + state)


USABLE = 0.9
"""Share of the free memory that is counted on."""
WORKSPACES = {"cuda": 4 * 32 * 2**20}
"""Bytes that libraries take, by type of device: cuBLAS a workspace for PyTorch's own stream and for that of recordings,
one each for forward and backward passes, of up to 32 MiB (on Hopper; less on others)."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one replica takes, estimated.

    They are `kept` for as long as it is trained: parameters, moments, targets, noise drawn ahead; `working` is while it
    is updated: what backward passes keep, gradients, and a copy of the state for trial runs.
    """

    kept: int
    working: int

    def width(self, replicas: int, free: int) -> int:
        """How many replicas can be computed together, in that many free bytes; a ConfigError if not even one."""
        left = int(free * USABLE) - replicas * self.kept
        if left < self.working:
            wanted = (replicas * self.kept + self.working) / USABLE
            raise ConfigError(
                f"{replicas} replicas need {wanted / 2**30:.2f} GiB, of which {free / 2**30:.2f} GiB are free. "
                "Train fewer seeds together, or lower Training.batch_size."
            )
        return min(replicas, left // self.working)


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that replicas may take: what is free, without what libraries will take."""
    return free_memory(device) - WORKSPACES.get(device.type, 0)


def flops_of_updates(pack: Pack, batch_size: int, steps: range) -> int:
    """Floating-point operations of the matrix products in all replicas' updates at those steps, with backward passes.

    They are counted, by PyTorch's table, while one replica's losses and gradients of made-up numbers are computed, once
    for each kind of update, on the pack's device, since they depend on it; nothing changes.
    """
    batch, noise = made_up_update(pack, batch_size)
    total = flops = 0

    def count(func: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal flops
        if formula := flop_registry.get(func.overloadpacket):
            flops += int(formula(*args, **kwargs, out_val=result))

    for step, similar in pack.kinds(steps).items():
        flops = 0
        with OperationObserver(count):
            pack.losses(slice(0, 1), batch, noise, pack.updating_at(step))
        total += similar * flops
    return total * pack.replicas


def made_up_noise(pack: Pack, specs: Mapping[str, NoiseSpec], replicas: int = 1) -> dict[str, Tensor]:
    """A draw of what `specs` ask for, for so many replicas of a pack."""
    return draw_noise(specs, generator_for(0, "rehearsal", 0, pack.device), pack.dtype, count=replicas)


def made_up_update(pack: Pack, rows: int, replicas: int = 1) -> tuple[Batch, dict[str, Tensor]]:
    """A batch of zeros and the noise of one update, for so many replicas of a pack."""
    dims, zeros = pack.dims, torch.zeros(replicas, rows, dtype=pack.dtype, device=pack.device)
    sizes = (dims.state, dims.action, dims.chunk)
    state, action, rewards = (zeros.unsqueeze(-1).expand(-1, -1, size) for size in sizes)
    noise = made_up_noise(pack, pack.algorithm.update_noise(dims, rows), replicas)
    next_action = action if pack.algorithm.reads_next_action else None
    return Batch(state, action, zeros if dims.chunk == 1 else rewards, state, zeros, next_action), noise


def _update_and_act(pack: Pack) -> None:
    (batch, noise), wanted = made_up_update(pack, 2), pack.algorithm.selection_loss
    name, reported, before = type(pack.algorithm).__name__, list[str](), torch.get_rng_state()
    owned = [(network, layout.module.named_buffers()) for network, layout in pack.layouts.items()]
    buffers = {f"{network}.{key}": buffer for network, own in owned for key, buffer in own}
    held = {key: buffer.clone() for key, buffer in buffers.items()}
    for step in pack.kinds(range(sys.maxsize)):
        pack.state.step = step
        reported += pack.update(batch, noise)
    if wanted not in reported:
        known = ", ".join(dict.fromkeys(reported))
        raise ConfigError(f"{name}.selection_loss is '{wanted}', but its losses report {known}.")
    pack.act(batch.state, made_up_noise(pack, pack.algorithm.act_noise(pack.dims, 2)))
    if not torch.equal(torch.get_rng_state(), before):
        said = f"{name}, or a network of its, draws random numbers of its own (nn.Dropout does, also when it acts)"
        raise ConfigError(f"{said}: no seed would repeat them. They are to be declared as noise: docs/contracts.md.")
    for key, buffer in buffers.items():
        if not torch.equal(buffer, held[key]):
            said = f"{name} changes the buffer '{key}' of a network when it is called (nn.BatchNorm does)"
            raise ConfigError(
                f"{said}: replicas would share it, and no checkpoint has it. Use nn.LayerNorm, for example."
            )


def _loss_bytes(pack: Pack, name: str, batch: Batch, noise: Noise) -> int:
    """Bytes that a network's loss takes: what its backward pass keeps, and its widest single result."""
    tensors, widest = pack.tensors(slice(0, 1)), 0
    made: dict[int, tuple[Any, int]] = {}
    reference: Any = StorageWeakRef
    own = {tensor.untyped_storage().data_ptr() for tensor in nested_tensors(tensors)}

    def measure(func: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal widest
        if isinstance(result, Tensor) and (storage := result.untyped_storage()).data_ptr() not in own:
            made[storage.data_ptr()] = reference(storage), storage.nbytes()
            widest = max(widest, result.nbytes)

    with OperationObserver(measure):
        result = pack.loss(name, tensors, batch, noise)
    kept = sum(size for storage, size in made.values() if not storage.expired())
    del result  # until here, what its gradient needs is there
    return kept + widest


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in nested_tensors(tensors))
