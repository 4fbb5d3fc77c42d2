"""The training core runs where only torch, numpy and gin are installed; doors import what they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT, bindings

CORE = """
import sys

HEAVY = "mlflow gymnasium mujoco matplotlib ray h5py safetensors rich pandas pydantic stable_baselines3".split()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
import torch
from dqlab.config import gin_files
from dqlab.runs.experiment import build_pack, check_experiment
from dqlab.runs import Experiment
from dqlab.testing import make_batch, make_noise

gin_files.load_gin(["gin/diffql_walker2d.gin"], ["MLPDenoiser.hidden_dim=16", "Experiment.dtype=float64"])
experiment = Experiment()
check_experiment(experiment)
pack = build_pack(experiment)
noise = make_noise(pack.algorithm.update_noise(pack.dims, 8))
info = pack.update(make_batch(pack.dims, 8), noise)
assert all(torch.isfinite(value).all() for value in info.values())
assert not set(HEAVY) & set(sys.modules)
"""
HELP = """
import contextlib, os, sys
import dqlab
assert "train" in dir(dqlab) and not {"torch", "numpy", "gin"} & set(sys.modules)
import dqlab.cli
for given, wanted in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
    os.environ.pop("OMP_WAIT_POLICY", None)
    if given:
        os.environ["OMP_WAIT_POLICY"] = given
    with contextlib.suppress(SystemExit):
        dqlab.cli.main(["--help"])
    assert os.environ["OMP_WAIT_POLICY"] == wanted
assert "torch" not in sys.modules
"""
EAGER = """
import sys
from dqlab.cli import main
assert main(["train", "--gin", "gin/quickstart.gin", "--out", sys.argv[1], *sys.argv[2:]]) == 0
assert "torch._dynamo" not in sys.modules
"""


def run(code: str, *args: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_core_with_torch_numpy_and_gin_only() -> None:
    run(CORE)


def test_help_imports_no_torch_and_idle_threads_will_sleep() -> None:
    """The command line says so before PyTorch, and OpenMP with it, is loaded, unless the environment says otherwise."""
    run(HELP)


def test_a_run_that_compiles_nothing_does_not_import_the_compiler(tmp_path: Path) -> None:
    """Up to its last update: a second or two of its start."""
    run(EAGER, str(tmp_path / "run"), "--steps", "20", *bindings("Training.execution=eager"))
