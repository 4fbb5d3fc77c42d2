"""The training step as a device program: no argument comes from the host, and nothing goes back to it.

Batches' indices and all other noise of the next 100 steps, and what depends on the steps' numbers, lie in buffers on
the device. One run of the program reads them at a cursor, gathers the batch, updates the replicas, adds the losses to
sums, and moves the cursor on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dqlab.data import Transitions
from dqlab.data.transitions import gather_rows
from dqlab.noise import NoiseStream, integers
from dqlab.training.execution.modes import ComputeBudget, ExecutionMode
from dqlab.training.execution.program import Program, TensorTree, tree_map
from dqlab.training.pack import Pack
from dqlab.training.probe import flops_of_update


class Step:
    """Updates a pack, one step a call.

    Args:
        pack: changed in place; its state's tensors must not be replaced afterwards.
        data: on the same device.
        batch_size: B.
        mode: how the program is executed.
        updates: how many are to come; what `auto` goes by.
        on_execution: called with the mode that is used, before it is made ready, which may take a while.
    """

    def __init__(
        self,
        pack: Pack,
        data: Transitions,
        batch_size: int,
        mode: ExecutionMode,
        updates: int = 0,
        on_execution: Callable[[ExecutionMode], None] = lambda mode: None,
    ) -> None:
        self.pack, self._data = pack, data
        specs = pack.algorithm.update_noise(pack.dims, batch_size)
        specs = {**specs, "batch_index": integers(len(data), batch_size)}
        self._stream = NoiseStream(specs, pack.seeds, "update", dtype=pack.dtype, device=pack.device)
        self._position = pack.state.step // self._stream.chunk
        self._buffers: TensorTree = {
            "noise": self._stream.draw_chunk(self._position),
            "controls": pack.controls(self._steps()),
            "cursor": torch.full((pack.replicas,), pack.state.step % self._stream.chunk, device=pack.device),
        }
        self.names = self._loss_names()
        self.sums = torch.zeros(pack.replicas, len(self.names), dtype=torch.float64, device=pack.device)
        self.mode = mode.resolve(ComputeBudget(pack.device, float(flops_of_update(pack, batch_size) * updates)))
        on_execution(self.mode)
        self._runs = [self.mode(self._program(rows)) for rows in pack.groups()]

    def _steps(self) -> range:
        first = self._position * self._stream.chunk
        return range(first, first + self._stream.chunk)

    def __call__(self) -> None:
        """One update of every replica."""
        if self.pack.state.step // self._stream.chunk != self._position:
            self._refill()
        for run in self._runs:
            run()
        self.pack.state.step += 1

    def _refill(self) -> None:
        self._position = self.pack.state.step // self._stream.chunk
        self._stream.draw_chunk(self._position, into=self._buffers["noise"])
        self._buffers["controls"].copy_(self.pack.controls(self._steps()))
        self._buffers["cursor"].zero_()

    def noise_at(self, step: int) -> dict[str, Tensor]:
        """What the update of that number reads, batch indices included: name -> (K, *shape)."""
        return self._stream.at(step)

    def take_sums(self) -> dict[str, Tensor]:
        """Sums of every loss since the last call, name -> (K,) float64 on the host: the one place where it waits."""
        sums = self.current_sums()
        self.sums.zero_()
        return sums

    def current_sums(self) -> dict[str, Tensor]:
        """Sums of every loss since `take_sums` was last called, name -> (K,) float64 on the host."""
        return dict(zip(self.names, self.sums.clone().cpu().unbind(1), strict=True))

    def restore_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Go on from sums that `current_sums` gave, as a checkpoint keeps them."""
        for column, name in enumerate(self.names):
            if name in sums:
                self.sums[:, column] = sums[name].to(self.sums.device)

    def _loss_names(self) -> list[str]:
        """What the losses report, found by computing them once; nothing changes."""
        rows = self.pack.groups()[0]
        noise = tree_map(lambda tensor: tensor[rows, 0], self._buffers["noise"])
        batch = self._data.batch(noise.pop("batch_index"))
        return list(self.pack.losses(rows, batch, noise))

    def _program(self, rows: slice) -> Program:
        own = tree_map(lambda tensor: tensor[rows], {**self._buffers, "sums": self.sums})
        tensors = {**self.pack.tensors(rows), **own, "data": self._data.fields}
        return Program(self._advance, tensors, ("parameters", "moments", "targets", "sums", "cursor"))

    def _advance(self, tensors: TensorTree) -> None:
        cursor = tensors["cursor"][:1]

        def now(chunk: Tensor) -> Tensor:
            return chunk.index_select(1, cursor).squeeze(1)

        noise: dict[str, Any] = {name: now(chunk) for name, chunk in tensors["noise"].items()}
        index = noise.pop("batch_index")
        batch = gather_rows(tensors["data"], index)
        info = self.pack.advance(tensors, batch, noise, now(tensors["controls"]))
        tensors["sums"].add_(torch.stack([info[name] for name in self.names], dim=-1))
        tensors["cursor"].add_(1)
