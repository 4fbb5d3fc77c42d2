"""A run on an OGBench task, from its data to its score, and what stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from dqlab.cli import main
from dqlab.envs import tasks
from dqlab.envs.ogbench_tasks import dataset_of

pytest.importorskip("ogbench")
pytest.importorskip("dm_control")

POINT = tasks.get("pointmaze-medium-navigate-singletask-v0")
"""A point in a maze takes the least to step."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    short = replace(tasks.entry(POINT.name), item=replace(POINT, episode_limit=20))
    monkeypatch.setitem(tasks.entries, POINT.name, short)
    draw = np.random.default_rng(0)
    qpos = draw.uniform(0, 20, (300, 2)).astype(np.float32)
    arrays = {"observations": qpos, "actions": draw.uniform(-1, 1, (300, 2)).astype(np.float32), "qpos": qpos}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / f"{dataset_of(POINT.name)}.npz", **arrays, terminals=np.arange(300) % 100 == 99)
    return tmp_path / "data"


SMALLEST = ["Training.execution='eager'", "Training.batch_size=8", "Training.eval_every=20", "Training.eval_episodes=2"]
SMALLEST += ["MLPDenoiser.hidden_dim=16", "MeanEnsemble.hidden_dim=16", "OneStepFlowPolicy.n_steps=2"]
SMALLEST += ["Tracking.mlflow=False"]


def train(out: Path, folder: Path, timing: str) -> None:
    own = (f"Experiment.task='{POINT.name}'", f"load_dataset.sources=('ogbench:{folder}',)")
    chosen = ["--set", *own, *SMALLEST, f"OGBench.success_timing='{timing}'"]
    file = str(ROOT / "gin" / "ogbench" / "fql.gin")
    assert main(["train", "--gin", file, "--out", str(out), "--steps", "20", *chosen]) == 0


def test_a_run_and_its_marks(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, post = tmp_path / "run", tmp_path / "post"
    train(out, folder, "pre")
    facts = json.loads((out / "run.json").read_text())
    marks = "not OGBench's data; success rate in %; success_timing 'pre'"
    assert (facts["caveat"], facts["physics"]) == (marks, "the environment's own, success_timing 'pre'")
    assert facts["data"]["score_mean"] is None
    assert "ogbench" in facts["versions"]
    summary = json.loads((out / "seed-0" / "summary.json").read_text())
    assert summary["caveat"] == marks
    assert {row["score_mean"] for row in summary["evaluations"]} <= {0.0, 50.0, 100.0}  # of two episodes
    assert "OGBench.success_timing = 'pre'" in (out / "config.gin").read_text()
    capsys.readouterr()
    assert main(["runs", "show", str(out)]) == 0
    assert marks in " ".join(capsys.readouterr().out.split())
    assert main(["eval", str(out), "--episodes", "1", "--set", "OGBench.success_timing='post'"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "'post'" in said
    assert "'pre'" not in said
    train(post, folder, "post")
    capsys.readouterr()
    assert main(["compare", str(out), str(post)]) == 0
    assert "their scores do not compare" in " ".join(capsys.readouterr().out.split())
