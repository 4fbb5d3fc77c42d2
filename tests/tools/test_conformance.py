"""Every registered component passes its kind's conformance suite, and the suite catches what it should."""

from __future__ import annotations

import pytest
import torch

from dqlab.config.registry import Registry
from dqlab.diffusion import noise_schedules
from dqlab.errors import ConfigError
from dqlab.policies import selections
from dqlab.testing import CHECKS, check

noise_schedules.names()  # fills the registries
COMPONENTS = [(kind, name) for kind, registry in sorted(Registry.kinds.items()) for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=["-".join(each) for each in COMPONENTS])
def test_every_component_conforms(kind: str, name: str) -> None:
    if reason := check(kind, name):
        pytest.skip(reason)


def test_every_kind_has_a_suite() -> None:
    assert set(Registry.kinds) == set(CHECKS)


def test_the_suite_catches_a_bad_schedule() -> None:
    @noise_schedules.register("too_noisy")
    def too_noisy(n_timesteps: int) -> torch.Tensor:
        """Betas of 2."""
        return torch.full((n_timesteps,), 2.0, dtype=torch.float64)

    try:
        with pytest.raises(ConfigError, match="outside"):
            check("noise_schedule", "too_noisy")
    finally:
        noise_schedules.remove("too_noisy")


def test_the_suite_catches_a_selection_that_draws_its_own_numbers() -> None:
    @selections.register("own_dice")
    class OwnDice:
        """Rolls its own dice."""

        n_candidates = 50

        def noise(self, batch: int) -> dict[str, object]:
            return {}

        def __call__(self, candidates: torch.Tensor, q: torch.Tensor, noise: object) -> torch.Tensor:
            return torch.randint(0, 50, (candidates.shape[1],))

    try:
        with pytest.raises(AssertionError, match="random numbers of its own"):
            check("selection", "own_dice")
    finally:
        selections.remove("own_dice")


def test_an_undocumented_component_is_caught() -> None:
    noise_schedules.add("silent", lambda n: torch.full((n,), 0.5, dtype=torch.float64))
    try:
        with pytest.raises(AssertionError, match="summary"):
            check("noise_schedule", "silent")
    finally:
        noise_schedules.remove("silent")
