"""The arithmetic of an update, counted."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dqlab.training.pack import Pack
from dqlab.training.rehearsal import made_up_update


def flops_of_update(pack: Pack, batch_size: int) -> int:
    """Floating-point operations of the matrix products in one update of all replicas, backward passes included.

    Counted while one replica's losses and gradients of made-up numbers are computed; nothing changes.
    """
    batch, noise = made_up_update(pack, batch_size)
    with _Counter() as counter:
        pack.losses(slice(0, 1), batch, noise)
    flops: int = counter.flops
    return flops * pack.replicas


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what PyTorch's table says of each operation; `FlopCounterMode` does, but imports the compiler for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles in here; PyTorch would import its compiler, a second of a run's start, to see to that."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count:
            self.flops += int(count(*args, **(kwargs or {}), out_val=result))
        return result
