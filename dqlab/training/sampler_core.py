"""The sampler core: actions for B states x C candidates of every replica in one call, by an execution mode."""

from __future__ import annotations

import torch
from torch import Tensor

from dqlab.noise import NoiseStream
from dqlab.training.execution import Mode
from dqlab.training.pack import Pack
from dqlab.training.program import Program, Tensors, join, tree_map


class SamplerCore:
    """Acts with a pack, as it is at the time of the call, in a fixed number of states.

    Sampling chains of all candidates, the critics that rank them and the selection are one program, without autograd.

    Args:
        pack: whose networks act; its state's tensors must not be replaced afterwards.
        states: B, states a call, of each replica.
        mode: how the program is executed.
    """

    def __init__(self, pack: Pack, states: int, mode: Mode) -> None:
        self.pack, self.states = pack, states
        self._specs = pack.algorithm.act_noise(pack.dims, states)
        self._state = torch.zeros(pack.replicas, states, pack.dims.state, dtype=pack.dtype, device=pack.device)
        noise = self.noise_stream("rehearsal").at(0)
        self._noise = {name: value.clone() for name, value in noise.items()}
        pack.act(self._state, self._noise)
        self._runs = [mode(self._program(rows)) for rows in pack.groups()]

    def noise_stream(self, name: str) -> NoiseStream:
        """A stream of what `sample_actions` needs at each call, under a name of its own."""
        pack = self.pack
        return NoiseStream(self._specs, pack.seeds, name, dtype=pack.dtype, device=pack.device, chunk=20)

    def sample_actions(self, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Actions (K, B, A) for states (K, B, S), on the device; the next call may overwrite them.

        Args:
            state: on any device, of any floating type.
            noise: what `algorithm.act_noise` asks for, with a leading replica axis; from a `noise_stream`, for example.
        """
        self._state.copy_(state)
        for name, value in noise.items():
            self._noise[name].copy_(value)
        actions: Tensor = join([run() for run in self._runs])
        return actions

    def _program(self, rows: slice) -> Program:
        own = tree_map(lambda tensor: tensor[rows], {"state": self._state, "noise": self._noise})
        networks = self.pack.tensors(rows)
        return Program(self._act, {name: networks[name] for name in ("parameters", "targets")} | own)

    def _act(self, tensors: Tensors) -> Tensor:
        return self.pack.choose_actions(tensors, tensors["state"], tensors["noise"])
