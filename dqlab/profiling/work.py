"""The arithmetic of an update, counted."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from dqlab.algorithms.base import Batch
from dqlab.noise import draw, generator_for
from dqlab.training.pack import Pack


def flops_of_update(pack: Pack, batch_size: int) -> int:
    """Floating-point operations of the matrix products in one update of all replicas, backward passes included.

    Counted while losses and gradients of made-up numbers are computed; nothing changes.
    """
    with FlopCounterMode(display=False) as counter:
        for rows in pack.groups():
            pack.losses(rows, *_made_up(pack, rows.stop - rows.start, batch_size))
    return int(counter.get_total_flops())


def _made_up(pack: Pack, replicas: int, batch_size: int) -> tuple[Batch, dict[str, torch.Tensor]]:
    """A batch of zeros, and the noise of one update, of some replicas."""
    zeros = torch.zeros(replicas, batch_size, dtype=pack.dtype, device=pack.device)
    state, action = zeros.new_zeros(*zeros.shape, pack.dims.state), zeros.new_zeros(*zeros.shape, pack.dims.action)
    specs = pack.algorithm.update_noise(pack.dims, batch_size)
    noise = draw(specs, generator_for(0, "profile", 0, pack.device), pack.dtype, replicas)
    return Batch(state, action, zeros, state, zeros), noise
