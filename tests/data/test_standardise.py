"""Standardised states: in the data by hand, in training, and in evaluations long after."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, bindings

from dqlab.data import load_dataset
from dqlab.data.formats.base import Columns
from dqlab.data.rewards import as_is
from dqlab.data.transitions import q_learning_view
from dqlab.envs import tasks

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_by_hand() -> None:
    """States 1 and 3: mean 2, deviation 1, floor 0.001; next states by the same numbers."""
    states, other, flag = np.array([[1.0], [3.0]]), np.zeros((2, 1)), np.zeros(2)
    columns = Columns(states, other, flag, flag, next_observations=states + 2)
    origin = {"source": "test", "path": "", "digest": "", "is_d4rl": False}
    data = q_learning_view(columns, 1000, as_is, origin, standardise=True)
    assert data.state.flatten().tolist() == pytest.approx([-1 / 1.001, 1 / 1.001])
    assert data.next_state.flatten().tolist() == pytest.approx([1 / 1.001, 3 / 1.001])
    assert data.provenance.state_mean == (2.0,)
    assert data.provenance.state_std == pytest.approx((1.001,))


def test_it_is_off_unless_asked_for() -> None:
    task = tasks.get("walker2d-medium-expert-v2")
    plain, standard = (load_dataset(task, ("embedded",), standardise_states=on) for on in (False, True))
    assert plain.provenance.state_mean == ()
    assert float(standard.state.mean(dim=0).abs().max()) < 1e-4
    assert float((standard.state.std(dim=0) - 1).abs().max()) < 0.05  # the floor
    assert torch.equal(standard.action, plain.action)


def test_an_evaluation_sees_states_as_training_did(in_process: Run, tmp_path: Path) -> None:
    """`dqlab eval` repeats the recorded return; without the recorded numbers it would not."""
    given = bindings("load_dataset.standardise_states=True", "Experiment.algorithm='td3_bc'", diffusion=False)
    trained = in_process(
        "train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--steps", "20", "--out", "run", "-q", *given
    )
    assert trained.returncode == 0, trained.stderr
    recorded = json.loads((tmp_path / "run" / "seed-0" / "summary.json").read_text())
    wanted = f"{recorded['selection']['last']['return_mean']:.1f}"
    assert wanted in in_process("eval", "run").stdout
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["data"] |= {"state_mean": [], "state_std": []}
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert wanted not in in_process("eval", "run").stdout
