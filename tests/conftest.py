"""Shared fixtures. Data that is not part of the project lies in ../shared, and tests that need it skip without it."""

from __future__ import annotations

import compileall
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import h5py
import numpy as np
import pytest
import torch
from forked import Template, install
from hypothesis import settings

from dqlab.cli import main
from dqlab.envs import tasks
from dqlab.envs.custom import SOURCE
from dqlab.envs.legacy.backend import legacy_python
from dqlab.errors import ConfigError
from dqlab.training.execution import program  # noqa: F401  sets what PyTorch's compiler reads when it is imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what is in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
"""What the fixtures `dqlab` and `in_process` are."""
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # no test fetches gigabytes
for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]:
    del os.environ[name]  # nor writes to anybody's server
for name, value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes more for each server
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # processes that compile start no others
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex,  # read when ray is imported; without it Ray writes one to ~
}.items():
    os.environ.setdefault(name, value)
torch.set_num_threads(1)
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # tests write modules anew within a second, which bytecode does not see,
compileall.compile_dir(ROOT / "dqlab", quiet=2)  # and hundreds of processes import dqlab
FORKS = Template()
if sys.platform == "linux" and not torch.cuda.is_available() and os.environ.get("DQLAB_TESTS_FORK") != "0":
    install(FORKS)
settings.register_profile("noisy machine", deadline=None, max_examples=50)
settings.load_profile("noisy machine")

TINY = [
    "load_dataset.sources=('embedded',)",
    "Training.batch_size=8",
    "Training.eval_every=20",
    "Training.eval_episodes=2",
    "Training.log_every=10",
    "MLPDenoiser.hidden_dim=16",
    "TwinCritic.hidden_dim=16",
    "SoftmaxQ.n_candidates=3",
    "Tracking.mlflow=False",
]
PERCEPTRONS = (
    *("MLPDenoiser", "TwinCritic", "SoftClippedEnsemble", "MeanEnsemble", "CVAEPolicy", "TanhGaussianPolicy"),
    *("DeterministicPolicy", "ValueNetwork", "Perturbation", "LowerBoundEnsemble", "MinimumEnsemble"),
    "ChainValueNetwork",
)
SMALL = [
    *(f"{component}.hidden_dim = 16" for component in ("LNResnet", *PERCEPTRONS)),
    "DiffusionPolicy.n_timesteps = 2",
    *(f"{flow}.n_steps = 2" for flow in ("OneStepFlowPolicy", "RectifiedFlowPolicy")),
    *(f"{selection}.n_candidates = 4" for selection in ("SoftmaxQ", "Argmax")),
    "LowerBoundEnsemble.n_critics = 3",
    *(f"{algorithm}.pretrain_steps = 2" for algorithm in ("DTQL", "BDPO")),
    "BDPO.warmup_steps = 1",
    "BDPO.actor_every = 2",
    "BDPO.candidates = 3",
]
"""Networks, chains, candidates and first phases of every algorithm, as small as can be with nothing left out."""
SHALLOW = ["LNResnet.n_blocks = 1", *(f"{component}.depth = 1" for component in PERCEPTRONS)]
SHALLOW += [f"{ensemble}.n_critics = 2" for ensemble in ("LowerBoundEnsemble", "MinimumEnsemble")]
"""One hidden layer instead of two or three, two critics instead of ten, which are traced and compiled alike."""
PLAIN = ["MLPDenoiser.time_dim = 1", *(f"{component}.activation = 'relu'" for component in ("LNResnet", *PERCEPTRONS))]
"""Mish is many operations, and the embedding of time has it, too: for what compiles, where another test keeps both."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU, or the original stack, skip where there is none."""
    lacking = {"legacy": no_legacy(), "gpu": "" if torch.cuda.is_available() else "there is no CUDA device"}
    for item in items:
        for mark, reason in lacking.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def no_legacy() -> str:
    """Why there is no original stack; empty where there is one."""
    try:
        legacy_python()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def fresh_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test inherits a configuration; commands of tests that are marked so begin as users' do (`forked.py`)."""
    forget_configuration()
    monkeypatch.setattr(FORKS, "off", request.node.get_closest_marker("fresh_start") is not None)


def forget_configuration() -> None:
    """gin's configuration is global, as are tasks that a configuration made."""
    gin.clear_config()
    for entry in [entry for entry in tasks if entry.source == SOURCE]:
        tasks.remove(entry.name)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    return SHARED


@pytest.fixture
def d4rl_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small D4RL file for walker2d; keyword arguments replace or (None) drop arrays."""

    def write(rows: int = 60, **changes: object) -> Path:
        rng = np.random.default_rng(0)
        arrays: dict[str, object] = {
            "observations": rng.normal(size=(rows, 17)).astype(np.float32),
            "actions": rng.uniform(-1, 1, size=(rows, 6)).astype(np.float32),
            "rewards": rng.normal(size=rows).astype(np.float32),
            "terminals": np.arange(rows) % 20 == 19,
            "timeouts": np.arange(rows) % 20 == 9,
        }
        with h5py.File(tmp_path / "made.hdf5", "w") as file:
            for name, array in {**arrays, **changes}.items():
                if array is not None:
                    file[name] = array
        return tmp_path / "made.hdf5"

    return write


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of so many bytes (`64k`) on an empty folder."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("disks can't be mounted here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def dqlab(tmp_path: Path) -> Run:
    """Runs the real command line in a process of its own, in an empty folder, without a D4RL cache or a network."""

    def run(*args: str, env: dict[str, str] | None = None, timeout: float = 240) -> Done:
        options: dict[str, object] = {"cwd": tmp_path, "env": isolated(tmp_path) | (env or {}), "timeout": timeout}
        return subprocess.run([sys.executable, "-m", "dqlab", *args], capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same in this process, seconds faster: for what does not depend on when a process begins or how it ends."""

    def run(*args: str, env: dict[str, str] | None = None) -> Done:
        forget_configuration()
        monkeypatch.chdir(tmp_path)
        for name, value in isolated(tmp_path).items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = main([*map(str, args)])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, said.out, said.err)

    return run


def refused(done: Done, *said: str) -> str:
    """The one line of an error, which has these texts; exit code 2."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
    assert done.stderr.startswith("dqlab: error: "), done.stderr
    assert all(text in done.stderr for text in said), done.stderr
    return done.stderr


def isolated(folder: Path) -> dict[str, str]:
    """An environment in which D4RL's cache is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    return {**kept, "D4RL_DATASET_DIR": str(folder / "d4rl"), "COLUMNS": "200"}


def bindings(*more: str, diffusion: bool = True) -> list[str]:
    """`--set` arguments of a training run of seconds; those that only Diffusion-QL reads may be left out."""
    of_diffusion = ("MLPDenoiser.", "SoftmaxQ.")
    return ["--set", *(one for one in TINY if diffusion or not one.startswith(of_diffusion)), *more]
