"""Randomness as data: what an update needs is declared, drawn ahead in chunks, and handed in.

A replica's noise is a function of its seed, the stream ("update", "evaluation", ...) and the position in that
stream, so a run gives the same numbers alone or packed, killed and resumed or not, and its whole generator
state is the pair (seed, step).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[tuple[int, ...], torch.Generator, torch.dtype], Tensor]


@dataclass(frozen=True)
class NoiseSpec:
    """One random tensor: its law and its shape.

    Attributes:
        draw, shape: what gives it.
        law: its name and its parameter, for exported programs, which draw by themselves; empty where it has no name.
    """

    draw: Draw
    shape: tuple[int, ...]
    law: tuple[str, float] = ("", 0.0)


def normal(*shape: int) -> NoiseSpec:
    """Standard normal."""
    return NoiseSpec(_normal, shape, ("normal", 0.0))


def uniform(*shape: int) -> NoiseSpec:
    """Uniform in [0, 1): times of a flow, ranks that choose a random subset."""
    return NoiseSpec(_uniform, shape, ("uniform", 0.0))


def gumbel(*shape: int) -> NoiseSpec:
    """Standard Gumbel: argmax(logits + gumbel) is a draw from softmax(logits)."""
    return NoiseSpec(_gumbel, shape, ("gumbel", 0.0))


def clipped(spec: NoiseSpec, bound: float) -> NoiseSpec:
    """A standard normal clipped to +-bound; other laws, and all of them where the bound is 0, as they are."""
    if spec.draw is not _normal or not bound > 0:
        return spec

    def draw(size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return _normal(size, generator, dtype).clamp_(-bound, bound)

    return NoiseSpec(draw, spec.shape, ("clipped", bound))


def integers(high: int, *shape: int) -> NoiseSpec:
    """Uniform integers in 0..high-1 (int64): batch indices, timesteps, coins."""

    def draw(size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randint(0, high, size, generator=generator, device=generator.device)

    return NoiseSpec(draw, shape, ("integers", high))


def _normal(size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(size, generator=generator, device=generator.device, dtype=dtype)


def _uniform(size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.rand(size, generator=generator, device=generator.device, dtype=dtype)


def _gumbel(size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    exponential = torch.empty(size, device=generator.device, dtype=dtype).exponential_(generator=generator)
    return -exponential.log()


def generator_for(seed: int, stream: str, position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator at one position of one stream of one replica."""
    entropy = [seed, zlib.crc32(stream.encode()), position]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state)


def draw_noise(
    specs: Mapping[str, NoiseSpec], generator: torch.Generator, dtype: torch.dtype, count: int | None = None
) -> dict[str, Tensor]:
    """Draw every tensor of `specs`, in order of name; with `count`, that many of each, stacked in front."""
    lead = () if count is None else (count,)
    return {name: specs[name].draw(lead + specs[name].shape, generator, dtype) for name in sorted(specs)}


CHUNK = 100
"""Steps drawn at once."""


class NoiseStream:
    """The per-step noise of K replicas, drawn ahead in chunks of steps.

    Args:
        specs: what one step of one replica needs.
        seeds: one a replica.
        stream: name of the stream.
        chunk: steps drawn at once; part of the stream's definition (another chunk length, other numbers).
    """

    def __init__(
        self,
        specs: Mapping[str, NoiseSpec],
        seeds: tuple[int, ...],
        stream: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        chunk: int = CHUNK,
    ) -> None:
        self._specs, self._seeds, self._stream = specs, seeds, stream
        self._dtype, self._device, self.chunk = dtype, device, chunk
        self._position = -1
        self._drawn: dict[str, Tensor] = {}

    def at(self, step: int) -> dict[str, Tensor]:
        """The noise of one step: name -> (K, *shape)."""
        position, offset = divmod(step, self.chunk)
        if position != self._position:
            self._drawn, self._position = self.draw_chunk(position), position
        return {name: values[:, offset] for name, values in self._drawn.items()}

    def draw_chunk(self, position: int, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The noise of steps position * chunk to (position + 1) * chunk - 1: name -> (K, chunk, *shape).

        Args:
            position: number of the chunk.
            into: tensors of those shapes to be overwritten; new ones by default.
        """
        for row, seed in enumerate(self._seeds):
            generator = generator_for(seed, self._stream, position, self._device)
            drawn = draw_noise(self._specs, generator, self._dtype, self.chunk)
            into = into or {name: value.new_empty(len(self._seeds), *value.shape) for name, value in drawn.items()}
            for name, value in drawn.items():
                into[name][row].copy_(value)
        return into or {}
