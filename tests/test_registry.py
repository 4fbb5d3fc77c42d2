"""The registry: names, nearest names, names taken twice, and the plugin's ten lines."""

from __future__ import annotations

import gin
import pytest
import torch

from dqlab.diffusion.schedules import build_betas, noise_schedules
from dqlab.errors import ConfigError, nearest
from dqlab.registry import Registry


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown noise_schedule 'cosin'. Did you mean 'cosine'?"):
        noise_schedules.get("cosin")


def test_a_name_taken_twice_names_both_places() -> None:
    with pytest.raises(
        ConfigError, match=r"'vp' is taken twice: by dqlab.diffusion.schedules:\d+ and by .*test_registry"
    ):

        @noise_schedules.register("vp")
        def another(n_timesteps: int) -> torch.Tensor:
            return torch.zeros(n_timesteps)


def test_a_part_is_a_gin_configurable() -> None:
    gin.clear_config()
    try:
        gin.parse_config("vp.beta_max = 20.0")
        assert float(build_betas("vp", 5)[-1]) > 0.97  # 1 - exp(-0.02 - 0.398 * 9), by hand 0.9727
    finally:
        gin.clear_config()
    assert float(build_betas("vp", 5)[-1]) < 0.84


def test_entries_say_what_list_shows() -> None:
    entry = next(entry for entry in noise_schedules if entry.name == "vp")
    assert entry.parameters()["beta_min"] == 0.1
    assert "Xiao" in entry.source
    assert entry.summary.startswith("1 - exp")


def test_kinds_are_summarised() -> None:
    noise_schedules.names()
    assert len(Registry.kinds) >= 15
    assert all(registry.summary and registry.names() for registry in Registry.kinds.values())


def test_only_the_nearest_are_named() -> None:
    assert nearest("etaa", ["eta", "tau", "ema_rate"]) == "Did you mean 'eta'?"
    assert nearest("vq", ["vp", "linear", "cosine"]) == "Did you mean 'vp'?"


def test_nearest_falls_back_to_all() -> None:
    assert nearest("zzz", ["b", "a"]) == "Known: a, b."
    assert "dqlab list" in nearest("zzz", [str(number) for number in range(50)])
    assert nearest("DIFFUSIONQL", ["DiffusionQL"]) == "Did you mean 'DiffusionQL'?"
