"""How noise becomes an action, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dqlab
from dqlab.errors import ConfigError
from dqlab.runs.policy import LoadedPolicy


def cloned(name: str, folder: Path) -> LoadedPolicy:
    short = {"Tracking.mlflow": False, "Training.eval_every": 4, "Training.eval_episodes": 1}
    return dqlab.train(f"gin/bandit/{name}", steps=4, out=folder, set=short, quiet=True).policy("last")


def test_a_chain_begins_with_the_noise_and_ends_in_the_action(tmp_path: Path) -> None:
    policy, states = cloned("bc_diffusion", tmp_path / "run"), np.zeros((5, 1), dtype=np.float32)
    chain = policy.seed(3).denoising_chain(states)
    assert chain.shape == (51, 5, 2), "N = 50 steps, and what they lead to"
    np.testing.assert_array_equal(chain[0], policy.seed(3).draw(5)["start"].numpy())
    np.testing.assert_allclose(chain[-1], policy.seed(3)(states), atol=1e-6)
    assert np.abs(np.diff(chain, axis=0)).max() > 0.01, "actions on the way differ"


def test_other_policies_have_none(tmp_path: Path) -> None:
    policy = cloned("bc_gaussian", tmp_path / "run")
    with pytest.raises(ConfigError, match="has no diffusion policy"):
        policy.denoising_chain(np.zeros((5, 1), dtype=np.float32))
