"""The training core runs where only torch, numpy and gin are installed; doors import what they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT, bindings

HEAVY = ("mlflow", "gymnasium", "mujoco", "matplotlib", "ray", "h5py", "safetensors", "rich", "pandas", "pydantic")
HEAVY += ("stable_baselines3",)

CORE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
import torch
from dqlab.config import gin_files
from dqlab.runs.build import build_pack, check_experiment
from dqlab.runs import Experiment
from dqlab.testing import make_batch, make_noise

gin_files.load_gin(["gin/diffql_walker2d.gin"], ["MLPDenoiser.hidden_dim=16", "Experiment.dtype=float64"])
experiment = Experiment()
check_experiment(experiment)
pack = build_pack(experiment)
noise = make_noise(pack.algorithm.update_noise(pack.dims, 8))
info = pack.update(make_batch(pack.dims, 8), noise)
assert all(torch.isfinite(value).all() for value in info.values())
print("trained", not set(HEAVY) & set(sys.modules))
"""


def test_core_with_torch_numpy_and_gin_only() -> None:
    code = f"HEAVY = {HEAVY!r}\n{CORE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "trained True", done.stderr


HELP = """
import contextlib, os, sys
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


def test_help_imports_no_torch_and_idle_threads_will_sleep() -> None:
    """The command line says so before PyTorch, and OpenMP with it, is loaded, unless the environment says otherwise."""
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


EAGER = """
import sys
from dqlab.cli import main
status = main(["train", "--gin", "gin/quickstart.gin", "--out", sys.argv[1], *sys.argv[2:]])
print("imported" if "torch._dynamo" in sys.modules else "left alone")
sys.exit(status)
"""


def test_a_run_that_compiles_nothing_does_not_import_the_compiler(tmp_path: Path) -> None:
    """Up to its last update: a second or two of its start."""
    args = [str(tmp_path / "run"), "--steps", "20", *bindings("Training.execution=eager")]
    command = [sys.executable, "-c", EAGER, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "left alone", done.stdout + done.stderr
