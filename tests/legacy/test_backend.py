"""The backend `d4rl` in evaluations: what the other one gives, from the command line too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bindings

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.envs import tasks
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import SoftmaxQ
from dqlab.training import Evaluator, Pack

pytestmark = pytest.mark.legacy


@pytest.mark.parametrize("name", ["hopper-medium-v2", "pen-human-v1"])
def test_an_evaluation_gives_the_same_in_both(name: str) -> None:
    """Same seeds, hence same initial states, in both; two replicas together."""
    task = tasks.get(name)
    policy = partial(DiffusionPolicy, n_timesteps=2, denoiser=partial(MLPDenoiser, hidden_dim=16))
    algorithm = DiffusionQL(policy=policy, selection=partial(SoftmaxQ, n_candidates=4))
    pack = Pack([algorithm] * 2, Dims(task.state_dim, task.action_dim), [5, 6], dtype=torch.float64)
    today = Evaluator(task, "mujoco210", 3).run(pack, 1000)
    evaluator = Evaluator(task, "mujoco210", 3, "d4rl")
    original = evaluator.run(pack, 1000)
    evaluator.environments.close()
    for ours, theirs in zip(today, original, strict=True):
        assert ours.lengths.tolist() == theirs.lengths.tolist()
        assert np.allclose(ours.returns, theirs.returns, rtol=1e-6)


def test_a_run_is_trained_and_evaluated_with_it(
    dqlab: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    chosen = bindings("Experiment.env_backend='d4rl'")
    trained = dqlab("train", "--gin", "gin/quickstart.gin", "--steps", "20", "--out", "run", "-q", *chosen)
    assert trained.returncode == 0, trained.stderr
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["env_backend"], facts["physics"]) == ("d4rl", "MuJoCo 2.1.0")
    tables = [dqlab("eval", "run", "--env-backend", name).stdout for name in ("d4rl", "gymnasium")]
    assert "physics MuJoCo 2.1.0" in tables[0]
    assert "physics mujoco210" in tables[1]
    figures = [[line for line in table.splitlines() if "seed" in line] for table in tables]
    assert figures[0] == figures[1] != []
