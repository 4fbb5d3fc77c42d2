"""A policy in use: one state a call, with 50 candidates, through `dqlab.load_policy`, as a robot would ask.

Against the baseline's `sample_action`. `compiled` is `load_policy(compiled=True)`, `onnx` the exported model under
onnxruntime, where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baseline import Agent
from subjects import DIMS

import dqlab
from dqlab.runs.export import export_policy

WAYS = ("eager", "compiled", "onnx")
SET = {"load_dataset.sources": ("embedded",), "Training.eval_episodes": 1, "Training.evaluate_untrained": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    own = {**SET, "Tracking.mlflow": False, "Training.execution": "eager"}
    return dqlab.train("diffql_walker2d", set=own, steps=1, out=out, quiet=True).path


@pytest.mark.parametrize("way", WAYS)
def test_single_state(measure: Callable[..., Any], run: Path, tmp_path: Path, way: str) -> None:
    state = np.zeros(DIMS.state, np.float32)
    agent = Agent(DIMS.state, DIMS.action)
    measure(
        _onnx(run, tmp_path, state) if way == "onnx" else _loaded(run, state, way == "compiled"),
        baseline=lambda: agent.sample_action(state),
        parameters={"part": "single state", "way": way, "device": "cpu"},
        work=1,
    )


def _loaded(run: Path, state: np.ndarray, compiled: bool) -> Callable[[], Any]:
    policy = dqlab.load_policy(run, "last", device="cpu", compiled=compiled)
    return lambda: policy(state)


def _onnx(run: Path, out: Path, state: np.ndarray) -> Callable[[], Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_policy(run, out / "exported", "onnx", "last")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(out / "exported" / "policy.onnx"), options)
    return lambda: session.run(None, {"state": state[None]})
