"""The arithmetic of an update, counted."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode

from dqlab.training.pack import Pack
from dqlab.training.rehearsal import made_up_update


def flops_of_update(pack: Pack, batch_size: int) -> int:
    """Floating-point operations of the matrix products in one update of all replicas, backward passes included.

    Counted while one replica's losses and gradients of made-up numbers are computed; nothing changes.
    """
    batch, noise = made_up_update(pack, batch_size)
    with FlopCounterMode(display=False) as counter:
        pack.losses(slice(0, 1), batch, noise)
    return int(counter.get_total_flops()) * pack.replicas
