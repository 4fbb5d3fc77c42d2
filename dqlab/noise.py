"""Randomness as data: what an update needs is declared, drawn ahead in chunks, and handed in.

A replica's noise is a function of its seed, the stream ("update", "evaluation", ...) and the position in that
stream, so a run gives the same numbers alone or packed, killed and resumed or not, and its whole generator
state is the pair (seed, step).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

CHUNK = 100  # steps drawn at once
Noise = dict[str, Tensor]  # drawn numbers by name, as an algorithm, a policy or a selection asks for them


@dataclass(frozen=True)
class NoiseSpec:
    """One random tensor: its law, a name in `LAWS`, its shape, and the law's parameter, where it has one."""

    law: str
    shape: tuple[int, ...]
    parameter: float = 0.0


LAWS: Mapping[str, Callable[..., Tensor]] = {
    "normal": lambda size, dtype, _, **given: torch.randn(size, dtype=dtype, **given),
    "clipped": lambda size, dtype, bound, **given: torch.randn(size, dtype=dtype, **given).clamp(-bound, bound),
    "uniform": lambda size, dtype, _, **given: torch.rand(size, dtype=dtype, **given),
    "gumbel": lambda size, dtype, _, device, **given: (
        -torch.empty(size, device=device, dtype=dtype).exponential_(**given).log()
    ),
    "integers": lambda size, _, high, **given: torch.randint(0, int(high), size, **given),
}
"""How each law is drawn: of shape, type and parameter, with a generator and its device."""


def normal(*shape: int) -> NoiseSpec:
    """Standard normal."""
    return NoiseSpec("normal", shape)


def uniform(*shape: int) -> NoiseSpec:
    """Uniform in [0, 1): times of a flow, ranks that choose a random subset."""
    return NoiseSpec("uniform", shape)


def gumbel(*shape: int) -> NoiseSpec:
    """Standard Gumbel: argmax(logits + gumbel) is a draw from softmax(logits)."""
    return NoiseSpec("gumbel", shape)


def clipped(spec: NoiseSpec, bound: float) -> NoiseSpec:
    """A standard normal clipped to +-bound; other laws, and all of them where the bound is 0, as they are."""
    return NoiseSpec("clipped", spec.shape, bound) if spec.law == "normal" and bound > 0 else spec


def integers(high: int, *shape: int) -> NoiseSpec:
    """Uniform integers in 0..high-1 (int64): batch indices, timesteps, coins."""
    return NoiseSpec("integers", shape, high)


def generator_for(seed: int, stream: str, position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator at one position of one stream of one replica."""
    entropy = [seed, zlib.crc32(stream.encode()), position]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state)


def draw_noise(
    specs: Mapping[str, NoiseSpec], generator: torch.Generator, dtype: torch.dtype, count: int | None = None
) -> dict[str, Tensor]:
    """Draw every tensor of `specs`, in order of name; with `count`, that many of each, stacked in front."""
    lead, given = () if count is None else (count,), {"generator": generator, "device": generator.device}
    return {
        name: LAWS[spec.law](lead + spec.shape, dtype, spec.parameter, **given) for name, spec in sorted(specs.items())
    }


@dataclass(eq=False)
class NoiseStream:
    """The per-step noise of K replicas, drawn ahead in chunks of steps."""

    specs: Mapping[str, NoiseSpec]  # what one step of one replica needs
    seeds: tuple[int, ...]  # one a replica
    stream: str
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    chunk: int = CHUNK  # part of the stream's definition: with another one there are other numbers
    _position: int = field(default=-1, init=False)
    _drawn: dict[str, Tensor] = field(default_factory=dict, init=False)

    def at(self, step: int) -> dict[str, Tensor]:
        """The noise of one step: name -> (K, *shape)."""
        position, offset = divmod(step, self.chunk)
        if position != self._position:
            self._drawn, self._position = self.draw_chunk(position), position
        return {name: values[:, offset] for name, values in self._drawn.items()}

    def draw_chunk(self, position: int, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The noise of `chunk` steps from position * chunk on: name -> (K, chunk, *shape), in new or given tensors."""
        for row, seed in enumerate(self.seeds):
            generator = generator_for(seed, self.stream, position, self.device)
            drawn = draw_noise(self.specs, generator, self.dtype, self.chunk)
            into = into or {name: value.new_empty(len(self.seeds), *value.shape) for name, value in drawn.items()}
            for name, value in drawn.items():
                into[name][row].copy_(value)
        return into or {}
