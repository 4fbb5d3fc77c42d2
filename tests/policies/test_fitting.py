"""Behaviour cloning of two modes in one state: every policy learns, and which of them can tell the modes apart."""

from __future__ import annotations

from functools import partial

import pytest
from made_policies import Fit

from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies import Policy, policies
from dqlab.policies.cvae import CVAEPolicy
from dqlab.policies.flow import OneStepFlowPolicy, RectifiedFlowPolicy
from dqlab.policies.gaussian import DeterministicPolicy, GaussianMixturePolicy, TanhGaussianPolicy
from dqlab.policies.mean_flow import MeanFlowPolicy

SMALL = partial(MLPDenoiser, hidden_dim=64)


@pytest.mark.parametrize("name", policies.names())
def test_training_lowers_the_loss(name: str) -> None:
    """On actions and noise of its own, from a fresh network."""
    make = policies.get(name)
    narrow = {"hidden_dim": 64} if any(p.name == "hidden_dim" for p in policies.entry(name).signature()) else {}
    fit = Fit(make(**narrow), steps=40, rate=1e-3)
    assert float(fit.after) < float(fit.before) - 0.005


@pytest.mark.parametrize(
    "policy",
    [
        GaussianMixturePolicy(hidden_dim=32),
        RectifiedFlowPolicy(denoiser=SMALL),
        OneStepFlowPolicy(denoiser=SMALL, one_step=SMALL, n_steps=5),
        MeanFlowPolicy(denoiser=SMALL, n_times=50),
        MeanFlowPolicy(denoiser=SMALL, fixed_end=False, residual=False, adaptive_power=1.0, adaptive_floor=1e-2),
    ],
    ids=lambda policy: f"{type(policy).__name__}{'' if getattr(policy, 'fixed_end', True) else ', ends drawn'}",
)
def test_both_modes_are_covered_with_little_between(policy: Policy) -> None:
    left, right, between = Fit(policy, steps=300, rate=1e-2).shares()
    assert min(left, right) > 0.3
    assert between < 0.12


def test_the_cvae_reaches_both_modes() -> None:
    left, right, _ = Fit(CVAEPolicy(hidden_dim=32), steps=200, rate=1e-2).shares()
    assert min(left, right) > 0.2


@pytest.mark.parametrize(
    "policy",
    [
        TanhGaussianPolicy(hidden_dim=32),
        TanhGaussianPolicy(hidden_dim=32, squashed=False),
        DeterministicPolicy(hidden_dim=32),
    ],
    ids=["squashed", "unsquashed", "deterministic"],
)
def test_one_gaussian_lies_between_the_modes(policy: Policy) -> None:
    left, right, between = Fit(policy, steps=200, rate=1e-2).shares()
    assert between > 0.25
    assert left + right < 0.5
