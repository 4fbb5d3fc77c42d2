"""Which timesteps are visited, by hand; that they fall from the first to the last, the conformance suite sees."""

from __future__ import annotations

import pytest
import torch

from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DPMSolverPP
from dqlab.diffusion.schedules import build_betas
from dqlab.diffusion.strides import visited_timesteps
from dqlab.errors import ConfigError
from dqlab.tools.conformance.diffusion import even_process


def test_by_hand() -> None:
    process = Process.from_betas(build_betas("linear", 101))
    assert visited_timesteps("uniform", process, 5) == (100, 75, 50, 25, 0)
    assert visited_timesteps("quadratic", process, 6) == (100, 64, 36, 16, 4, 0)
    assert visited_timesteps("quadratic", process, 1) == (100,)


def test_crowded_timesteps_stay_distinct() -> None:
    """Of 6 timesteps, 5 by the square: 0, 0.31, 1.25, 2.8, 5 would give 0 twice."""
    process = Process.from_betas(build_betas("linear", 6))
    assert visited_timesteps("quadratic", process, 5) == (5, 3, 2, 1, 0)


def test_log_snr_is_even_in_lambda() -> None:
    """Where lambda falls evenly with t it is the uniform stride; elsewhere its gaps are even but for rounding."""
    assert visited_timesteps("log_snr", even_process(41), 9) == visited_timesteps("uniform", even_process(41), 9)
    process = Process.from_betas(build_betas("vp", 1000))
    levels = [process.log_snr(t) for t in visited_timesteps("log_snr", process, 11)]
    gaps = torch.tensor(levels).diff()
    assert float(gaps.max() / gaps.min()) < 1.25
    uniform = torch.tensor([process.log_snr(t) for t in visited_timesteps("uniform", process, 11)]).diff()
    assert float(uniform.max() / uniform.min()) > 2


def test_karras_is_even_in_the_root_of_sigma() -> None:
    """The karras schedule's own timesteps are spaced so."""
    process = Process.from_betas(build_betas("karras", 41))
    assert visited_timesteps("karras", process, 9) == visited_timesteps("uniform", process, 9)


def test_mistakes_are_named() -> None:
    process = Process.from_betas(build_betas("vp", 5))
    with pytest.raises(ConfigError, match=r"DDIM.steps = 6 is more than the N = 5 timesteps"):
        DDIM(steps=6).times(process)
    with pytest.raises(ConfigError, match="Did you mean 'quadratic'"):
        DDIM(steps=3, stride="quadratc").times(process)
    with pytest.raises(ConfigError, match=r"must give 3 strictly falling timesteps from 4 to 0, not \(4, 4, 0\)"):
        DDIM(steps=3, stride=lambda process, steps: (4, 4, 0)).times(process)
    for fields, wanted in (
        ({"steps": -1}, "steps must be at least 0"),
        ({"eta": 1.5}, "eta must be between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            DDIM(**fields)
    with pytest.raises(ConfigError, match="order must be 1, 2 or 3"):
        DPMSolverPP(order=4)
