"""Every critic and every denoiser in Diffusion-QL: trained alone and packed, it ends with the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.config.registry import RegistryEntry
from dqlab.networks import critics, denoisers
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import SoftmaxQ
from dqlab.tools.conformance.policies import check_algorithm


def conforms(critic: str = "twin", denoiser: str = "mlp", **options: Any) -> None:
    part = partial(denoisers.get(denoiser), hidden_dim=8)
    make = partial(
        DiffusionQL,
        policy=partial(DiffusionPolicy, n_timesteps=2, denoiser=part),
        critic=partial(critics.get(critic), hidden_dim=8, depth=1),
        selection=partial(SoftmaxQ, n_candidates=2),
        **options,
    )
    check_algorithm(RegistryEntry("made", make, "", "", ""))


@pytest.mark.parametrize(
    ("critic", "max_q_backup"),
    [*((name, False) for name in critics.names()), ("twin", True), ("redq", True), ("tqc", True)],
)
def test_critics(critic: str, max_q_backup: bool) -> None:
    conforms(critic=critic, max_q_backup=max_q_backup)


@pytest.mark.parametrize("denoiser", denoisers.names())
def test_denoisers(denoiser: str) -> None:
    conforms(denoiser=denoiser)
