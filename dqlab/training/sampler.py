"""The sampler core: actions for B states x C candidates of every replica in one call, by an execution mode."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dqlab.machine import cores
from dqlab.noise import NoiseStream
from dqlab.training.execution.modes import ExecutionMode
from dqlab.training.execution.program import Program, TensorTree, to_device, tree_map
from dqlab.training.pack import Pack

LANE = 5
"""States that a CPU computes together: with 50 candidates each, enough rows for its products to be fast."""


@dataclass(frozen=True)
class Lanes:
    """How B states are cut: into `count` lanes of `size`, the last of which may have states to spare."""

    count: int
    size: int

    @classmethod
    def of(cls, states: int, device: torch.device) -> Lanes:
        """One lane on a GPU; on a CPU lanes of at most five states, for its cores to share."""
        count = math.ceil(states / LANE) if device.type == "cpu" else 1
        return cls(count, math.ceil(states / count))


class SamplerCore:
    """Acts with a pack, as it is at the time of the call, in a fixed number of states.

    Sampling chains of all candidates, the critics that rank them and the selection are one program, without autograd.
    On a CPU states are cut into lanes, which its cores compute side by side, a thread each.

    Args:
        pack: whose networks act; its state's tensors must not be replaced afterwards.
        states: B, states a call, of each replica.
        mode: how the program is executed.
    """

    def __init__(self, pack: Pack, states: int, mode: ExecutionMode) -> None:
        self.pack, self.states, self.lanes = pack, states, Lanes.of(states, pack.device)
        shape = pack.replicas, self.lanes.count, self.lanes.size, pack.dims.state
        self._state = torch.zeros(shape, dtype=pack.dtype, device=pack.device)
        self._noise = {name: value.clone() for name, value in self.noise_stream("rehearsal").at(0).items()}
        pack.act(self._state[:, 0], {name: value[:, 0] for name, value in self._noise.items()})
        self._groups = pack.groups()
        self._runs = [mode(self._program(rows, lane)) for rows in self._groups for lane in range(self.lanes.count)]
        workers = min(cores(), len(self._runs)) if pack.device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def noise_stream(self, name: str) -> NoiseStream:
        """A stream of what `sample_actions` needs at each call, under a name of its own: (K, lanes, ...)."""
        pack = self.pack
        specs = pack.algorithm.act_noise(pack.dims, self.lanes.size)
        by_lane = {key: replace(spec, shape=(self.lanes.count, *spec.shape)) for key, spec in specs.items()}
        return NoiseStream(by_lane, pack.seeds, name, dtype=pack.dtype, device=pack.device, chunk=20)

    def sample_actions(self, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Actions (K, B, A) for states (K, B, S), on the device; the next call may overwrite them.

        Args:
            state: on any device, of any floating type.
            noise: from a `noise_stream`: what `algorithm.act_noise` asks for, for every replica and lane.
        """
        self._state.flatten(1, 2)[:, : self.states].copy_(to_device(self.pack.device, state.to(self.pack.dtype)))
        for name, value in noise.items():
            self._noise[name].copy_(value)
        actions = list(self._pool.map(lambda run: run(), self._runs)) if self._pool else [run() for run in self._runs]
        return self._together(actions)

    def _together(self, actions: list[Tensor]) -> Tensor:
        """Actions of groups and lanes (k, size, A) as one tensor (K, B, A)."""
        count = self.lanes.count
        if len(actions) == 1:
            return actions[0]
        groups = [torch.cat(actions[first : first + count], dim=1) for first in range(0, len(actions), count)]
        return torch.cat(groups)[:, : self.states]

    def _program(self, rows: slice, lane: int) -> Program:
        own = tree_map(lambda tensor: tensor[rows, lane], {"state": self._state, "noise": self._noise})
        networks = self.pack.tensors(rows)
        return Program(self._act, {name: networks[name] for name in ("parameters", "targets")} | own)

    def _act(self, tensors: TensorTree) -> Tensor:
        return self.pack.choose_actions(tensors, tensors["state"], tensors["noise"])
