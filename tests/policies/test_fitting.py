"""What policies and selections refuse; and behaviour cloning of two modes in one state, which some can tell apart."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from made_policies import LINE, Fit

from dqlab.errors import ConfigError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies import Policy
from dqlab.policies.diffusion import EDMPolicy
from dqlab.policies.flow import MeanFlowPolicy, OneStepFlowPolicy, RectifiedFlowPolicy
from dqlab.policies.gaussian import CVAEPolicy, DeterministicPolicy, GaussianMixturePolicy, TanhGaussianPolicy
from dqlab.policies.selection import IDQLExpectile, IDQLExponential, IDQLQuantile, MeanOfBest, SoftmaxQ

SMALL = partial(MLPDenoiser, hidden_dim=64)


TWO_MODES: list[tuple[Policy, int, float, float]] = [
    (EDMPolicy(denoiser=SMALL), 300, 0.3, 0.12),
    (GaussianMixturePolicy(hidden_dim=32), 300, 0.3, 0.12),
    (RectifiedFlowPolicy(denoiser=SMALL), 300, 0.3, 0.12),
    (OneStepFlowPolicy(denoiser=SMALL, one_step=SMALL, n_steps=5), 300, 0.3, 0.12),
    (MeanFlowPolicy(denoiser=SMALL, n_times=50), 300, 0.3, 0.12),
    (CVAEPolicy(hidden_dim=32), 200, 0.2, 1.0),
]


@pytest.mark.parametrize(("policy", "steps", "each", "most"), TWO_MODES, ids=lambda part: type(part).__name__)
def test_both_modes_are_covered_with_little_between(policy: Policy, steps: int, each: float, most: float) -> None:
    left, right, between = Fit(policy, steps, rate=1e-2).shares()
    assert min(left, right) > each
    assert between < most


ONE_MODE = [TanhGaussianPolicy(hidden_dim=32), TanhGaussianPolicy(hidden_dim=32, squashed=False)]


@pytest.mark.parametrize("policy", [*ONE_MODE, DeterministicPolicy(hidden_dim=32)], ids=str)
def test_one_gaussian_lies_between_the_modes(policy: Policy) -> None:
    left, right, between = Fit(policy, steps=200, rate=1e-2).shares()
    assert between > 0.25
    assert left + right < 0.5


IMPOSSIBLE: list[tuple[Any, dict[str, Any]]] = [
    *((OneStepFlowPolicy, fields) for fields in ({"time_scale": 0.0}, {"alpha": -1.0})),
    *((MeanFlowPolicy, fields) for fields in ({"time_scale": 0.0}, {"target_bound": 0.0}, {"instant_share": 1.5})),
    (TanhGaussianPolicy, {"log_std_min": 3.0}),
    (GaussianMixturePolicy, {"min_std": 0.0}),
    *((make, {"tau": tau}) for make, tau in ((IDQLExpectile, 1.0), (IDQLQuantile, 0.0))),
    *((IDQLQuantile, {"floor": 0.0}), (IDQLExponential, {"alpha": -1.0}), (SoftmaxQ, {"temperature": 0.0})),
    (MeanOfBest, {"k": 51}),
    (EDMPolicy, {"sigma_min": 90.0}),
]


@pytest.mark.parametrize(("make", "fields"), IMPOSSIBLE, ids=str)
def test_impossible_fields_are_refused(make: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        make(**fields)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match="sine waves"):
        TanhGaussianPolicy(activation="sine waves").build(LINE)
