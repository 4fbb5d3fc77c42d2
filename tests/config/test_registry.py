"""The registry: names, nearest names, names taken twice, and the plugin's ten lines."""

from __future__ import annotations

from dataclasses import dataclass

import gin
import pytest
import torch

from dqlab.config import gin_files
from dqlab.diffusion import noise_schedules
from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError, nearest
from dqlab.policies import selections
from dqlab.policies.selection import Single


def test_a_part_is_a_gin_configurable() -> None:
    gin.clear_config()
    try:
        gin.parse_config("vp.beta_max = 20.0")
        assert float(build_betas("vp", 5)[-1]) > 0.97  # 1 - exp(-0.02 - 0.398 * 9), by hand 0.9727
    finally:
        gin.clear_config()
    assert float(build_betas("vp", 5)[-1]) < 0.84


def test_a_removed_part_leaves_both_its_names() -> None:
    """So that a notebook's cell can be run again."""
    for beta in (0.1, 0.2):

        @noise_schedules.register("cell", source="x")
        def cell(n_timesteps: int, beta: float = beta) -> torch.Tensor:
            """The same beta at every step."""
            return torch.full((n_timesteps,), beta, dtype=torch.float64)

        assert float(build_betas("cell", 1)) == pytest.approx(beta)
        noise_schedules.remove("cell")
    with pytest.raises(ConfigError, match="nothing is called 'cell'"):
        gin_files.load_gin([], ["cell.beta = 0.3"])


def test_a_docstring_is_the_parts_own() -> None:
    """Neither its base class's nor a dataclass's list of fields."""

    @dataclass(frozen=True)
    class Bare(Single):
        width: int = 3

    selections.register("bare")(Bare)
    try:
        assert selections.entry("bare").docstring == ""
        assert selections.entry("bare").summary == ""
        assert selections.entry("bare").module == __name__
    finally:
        selections.remove("bare")


def test_the_nearest_are_named_or_all() -> None:
    assert nearest("etaa", ["eta", "tau", "ema_rate"]) == "Did you mean 'eta'?"
    assert nearest("DIFFUSIONQL", ["DiffusionQL"]) == "Did you mean 'DiffusionQL'?"
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."
    assert "dqlab list" in nearest("zzz", [str(number) for number in range(50)])
