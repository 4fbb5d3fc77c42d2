"""What a pack runs on its device: the training step and the sampler core, each as a program.

No argument of the step comes from the host, and nothing goes back to it: batches' indices and all other noise of the
next 100 steps, and what depends on the steps' numbers, lie in buffers on the device. One run of the program reads them
at a cursor, gathers the batch, updates the replicas, adds the losses to sums, and moves the cursor on.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from dqlab.data import Transitions
from dqlab.data.transitions import gather_rows
from dqlab.machine import cores
from dqlab.noise import Noise, NoiseStream, integers
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.execution.program import Program, TensorTree, to_device, tree_map
from dqlab.training.pack import Pack
from dqlab.training.probe import flops_of_updates


class Step:
    """Updates a pack in place, one step a call, with B transitions of data on the same device.

    The pack's state's tensors must not be replaced afterwards. `auto` goes by the number of `updates` to come;
    `on_execution` is called with the mode that is used, before it is made ready, which may take a while.
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
        self.pack, self._fields = pack, data.fields
        if not pack.algorithm.reads_next_action:
            self._fields = self._fields._replace(next_action=None)
        specs = pack.algorithm.update_noise(pack.dims, batch_size)
        specs = {**specs, "batch_index": integers(len(data), batch_size)}
        self._stream = NoiseStream(specs, pack.seeds, "update", dtype=pack.dtype, device=pack.device)
        self._position = pack.state.step // self._stream.chunk
        self._buffers: TensorTree = {
            "noise": self._stream.draw_chunk(self._position),
            "controls": pack.controls(self._steps()),
            "cursor": torch.full((pack.replicas,), pack.state.step % self._stream.chunk, device=pack.device),
        }
        rows = pack.groups()[0]  # what losses report is found by computing them once; nothing changes
        noise = tree_map(itemgetter((rows, 0)), self._buffers["noise"])
        batch = gather_rows(self._fields, noise.pop("batch_index"))
        self._names = {name: list(pack.losses(rows, batch, noise, [name])) for name in pack.trained}
        self._columns = list(dict.fromkeys(name for names in self._names.values() for name in names))
        self.sums = torch.zeros(pack.replicas, len(self._columns), dtype=torch.float64, device=pack.device)
        steps = range(pack.state.step, pack.state.step + updates)
        self.mode = mode.resolve(pack.device, float(flops_of_updates(pack, batch_size, steps)))
        on_execution(self.mode)
        self._begin_phase()

    def _begin_phase(self) -> None:
        """Make the updates of this phase, whose networks alone are trained, ready: one for each kind of step."""
        step = self.pack.state.step
        self._losses = [name for network in self.pack.trained_at(step) for name in self._names[network]]
        self._next_phase, self._runs = self.pack.next_phase(step), {}  # the programs before go before others are made
        for kind in self.pack.kinds(range(step, self._next_phase or sys.maxsize)):
            self._runs[self.pack.updating_at(kind)] = [self.mode(program) for program in self._programs(kind)]

    def _steps(self) -> range:
        first = self._position * self._stream.chunk
        return range(first, first + self._stream.chunk)

    def __call__(self) -> None:
        """One update of every replica."""
        if self.pack.state.step // self._stream.chunk != self._position:
            self._position = self.pack.state.step // self._stream.chunk
            # first: making a program ready runs it on what is in the buffers
            self._stream.draw_chunk(self._position, into=self._buffers["noise"])
            self._buffers["controls"].copy_(self.pack.controls(self._steps()))
            self._buffers["cursor"].zero_()
        if self.pack.state.step == self._next_phase:
            self._begin_phase()
        for run in self._runs[self.pack.updating_at(self.pack.state.step)]:
            run()
        self.pack.state.step += 1

    def counts(self, steps: range) -> dict[str, int]:
        """At how many of these steps, all of one phase, each of its losses is computed: it rests with its network."""
        trained = self.pack.trained
        return {name: trained[network].updates_in(steps) for network, names in self._names.items() for name in names}

    def take_sums(self) -> dict[str, Tensor]:
        """Sums of every loss since the last call, name -> (K,) float64 on the host: the one place where it waits.

        Losses are those of the phase of the last update: whoever wants all takes the sums where a phase ends.
        """
        sums = self.current_sums()
        self.sums.zero_()
        return sums

    def current_sums(self) -> dict[str, Tensor]:
        """Sums of every loss since `take_sums` was last called, name -> (K,) float64 on the host."""
        columns = zip(self._columns, self.sums.clone().cpu().unbind(1), strict=True)
        return {name: column for name, column in columns if name in self._losses}

    def restore_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Go on from sums that `current_sums` gave, as a checkpoint keeps them."""
        for column, name in enumerate(self._columns):
            if name in sums:
                self.sums[:, column] = sums[name].to(self.sums.device)

    def _programs(self, step: int) -> list[Program]:
        """The update at steps like this one, of every group; one function for all, so that it is compiled once."""
        update, made = partial(self._advance, step), []
        for rows in self.pack.groups():
            own = tree_map(itemgetter(rows), {**self._buffers, "sums": self.sums})
            tensors = {**self.pack.tensors(rows), **own, "data": self._fields}
            made.append(Program(update, tensors, ("parameters", "moments", "targets", "sums", "cursor")))
        return made

    def _advance(self, step: int, tensors: TensorTree) -> None:
        cursor = tensors["cursor"][:1]

        def now(chunk: Tensor) -> Tensor:
            return chunk.index_select(1, cursor).squeeze(1)

        noise: dict[str, Any] = {name: now(chunk) for name, chunk in tensors["noise"].items()}
        batch = gather_rows(tensors["data"], noise.pop("batch_index"))
        info = self.pack.advance(tensors, batch, noise, now(tensors["controls"]), step)
        resting = torch.zeros_like(tensors["sums"][:, 0])
        tensors["sums"].add_(torch.stack([info.get(name, resting) for name in self._columns], dim=-1))
        tensors["cursor"].add_(1)


LANE = 5
"""States at most that a CPU's core computes together: with 50 candidates each, rows enough for fast products."""


class SamplerCore:
    """Acts with a pack, as it is at the time of the call, in a fixed number of states, B a call of each replica.

    Sampling chains of all candidates, the critics that rank them and the selection are one program, without autograd.
    On a CPU its cores compute lanes of states side by side. The pack's state's tensors must not be replaced afterwards.
    """

    def __init__(self, pack: Pack, states: int, mode: ExecutionMode) -> None:
        self.pack, self.states = pack, states
        self.lanes = math.ceil(states / LANE) if pack.device.type == "cpu" else 1
        self.lane_size = math.ceil(states / self.lanes)  # the last one may have states to spare
        shape = pack.replicas, self.lanes, self.lane_size, pack.dims.state
        self._state = torch.zeros(shape, dtype=pack.dtype, device=pack.device)
        self._noise = {name: value.clone() for name, value in self.noise_stream("rehearsal").at(0).items()}
        pack.act(self._state[:, 0], {name: value[:, 0] for name, value in self._noise.items()})
        self._runs = [mode(self._program(rows, lane)) for rows in pack.groups() for lane in range(self.lanes)]
        workers = min(cores(), len(self._runs)) if pack.device.type == "cpu" else 1
        # a new thread has OpenMP's and MKL's own counts of threads, until PyTorch is asked for its count in it
        self._pool = ThreadPoolExecutor(workers, initializer=torch.get_num_threads) if workers > 1 else None

    def noise_stream(self, name: str) -> NoiseStream:
        """A stream of what `sample_actions` needs at each call, under a name of its own: (K, lanes, ...)."""
        pack = self.pack
        specs = pack.algorithm.act_noise(pack.dims, self.lane_size)
        by_lane = {key: replace(spec, shape=(self.lanes, *spec.shape)) for key, spec in specs.items()}
        return NoiseStream(by_lane, pack.seeds, name, dtype=pack.dtype, device=pack.device, chunk=20)

    def sample_actions(self, state: Tensor, noise: Noise) -> Tensor:
        """Actions (K, B, A) for states (K, B, S), by noise of a `noise_stream`; the next call may overwrite them."""
        self._state.flatten(1, 2)[:, : self.states].copy_(to_device(self.pack.device, state.to(self.pack.dtype)))
        for name, value in noise.items():
            self._noise[name].copy_(value)
        parts = list(self._pool.map(lambda run: run(), self._runs)) if self._pool else [run() for run in self._runs]
        if len(parts) == 1:
            return parts[0]  # type: ignore[no-any-return]
        starts = range(0, len(parts), self.lanes)  # of groups, whose lanes (k, size, A) lie side by side
        return torch.cat([torch.cat(parts[start : start + self.lanes], dim=1) for start in starts])[:, : self.states]

    def _program(self, rows: slice, lane: int) -> Program:
        own = tree_map(itemgetter((rows, lane)), {"state": self._state, "noise": self._noise})
        networks = self.pack.tensors(rows)
        return Program(self._act, {name: networks[name] for name in ("parameters", "targets")} | own)

    def _act(self, tensors: TensorTree) -> Tensor:
        return self.pack.choose_actions(tensors, tensors["state"], tensors["noise"])
