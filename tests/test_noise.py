"""Noise as data: a function of seed, stream and step alone."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.noise import NoiseStream, gumbel, integers, normal

SPECS = {"eps": normal(3, 2), "t": integers(5, 4), "coin": integers(2), "g": gumbel(2)}


@settings(max_examples=15)
@given(step=st.integers(0, 500), seed=st.integers(0, 2**31))
def test_a_step_is_the_same_whatever_came_before(step: int, seed: int) -> None:
    jumped = NoiseStream(SPECS, (seed,), "update", chunk=7).at(step)
    packed = NoiseStream(SPECS, (seed + 1, seed), "update", chunk=7)
    packed.at(max(step - 3, 0))
    for name, value in packed.at(step).items():
        assert torch.equal(value[1], jumped[name][0])
        assert value.shape == (2, *SPECS[name].shape)


def test_steps_seeds_and_streams_differ() -> None:
    def eps(seed: int, stream: str, step: int) -> torch.Tensor:
        return NoiseStream(SPECS, (seed,), stream, chunk=10).at(step)["eps"]

    reference = eps(0, "update", 0)
    for other in (eps(1, "update", 0), eps(0, "evaluation", 0), eps(0, "update", 1), eps(0, "update", 10)):
        assert not torch.equal(reference, other)


def test_laws() -> None:
    """Moments of 40,000 draws: normal (0, 1), Gumbel (0.5772, pi^2 / 6), integers uniform."""
    specs = {"n": normal(400), "g": gumbel(400), "i": integers(5, 400)}
    stream = NoiseStream(specs, (0,), "laws", chunk=100)
    draws = {name: torch.stack([stream.at(step)[name] for step in range(100)]).double() for name in specs}
    assert abs(float(draws["n"].mean())) < 0.02
    assert abs(float(draws["n"].var()) - 1) < 0.03
    assert abs(float(draws["g"].mean()) - 0.5772) < 0.03
    assert abs(float(draws["g"].var()) - math.pi**2 / 6) < 0.08
    assert [abs(float((draws["i"] == k).double().mean()) - 0.2) < 0.01 for k in range(5)] == [True] * 5
