"""How many cells one process trains together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dqlab.ablation.calibration import load_pack
from dqlab.ablation.planning import Kind, Pack
from dqlab.training.memory import USABLE, free_bytes, need

MOST_ON_CPU = 8
MOST_ON_GPU = 64
GPU_ELSEWHERE = 16 * 2**30
"""Bytes that are counted on where packs go to GPUs that are not here."""


@dataclass
class Widths:
    """How many cells of a kind are trained together.

    On a GPU as many as fit: they cost little more than one. On a CPU some, to share a process's start, but so that
    every slot has several packs.

    Args:
        limit: as the grid's file says; 0 leaves it to the device.
        cells: to be packed, of all kinds.
        slots: packs that run at a time.
    """

    limit: int
    cells: int
    slots: int
    _on_gpu: dict[int, int] = field(default_factory=dict)

    def __call__(self, kind: Kind) -> int:
        """Cells a pack, at most."""
        if self.limit:
            return self.limit
        if len(self._on_gpu) < MOST_ON_CPU and id(kind) not in self._on_gpu:
            self._on_gpu[id(kind)] = _fitting(kind)
        on_gpu = self._on_gpu.get(id(kind), min(self._on_gpu.values()))
        return on_gpu or min(max(math.ceil(self.cells / (4 * self.slots)), 1), MOST_ON_CPU)


def _fitting(kind: Kind) -> int:
    """How many cells of a kind fit on the GPU that they would use; 0 where they use none."""
    experiment, on_gpu = load_pack(Pack("", kind, ()))
    if not on_gpu:
        return 0
    here = experiment.the_device.type != "cpu"
    free = free_bytes(experiment.the_device) if here else GPU_ELSEWHERE
    needed = need(experiment.the_algorithm, experiment.dims, experiment.plan.batch_size)
    fit = int(USABLE * free / (needed.kept + needed.together))
    return min(max(fit, 1), MOST_ON_GPU)
