"""What holds at every door: commands in an ASCII locale, `~` in paths, trouble of the machine, other devices."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Run, isolated, refused

from dqlab.errors import lacks_memory, pip_install

QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "-q", "--steps", "20"]
MINI = ROOT / "dqlab" / "data" / "embedded" / "walker2d-medium-expert-mini.hdf5"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
IN_TURN = """
import gin, sys
from dqlab.cli import main
command = []
for word in sys.argv[1:]:
    if word != ";":
        command.append(word)
        continue
    gin.clear_config()
    sys.argv, command = ["dqlab", *command], []
    code = main()
    print(end="\\0", file=sys.stderr, flush=True)
    print(code, end="\\0", flush=True)
"""
"""Each command that ends with a semicolon as if it were alone: a process costs seconds."""


def test_commands_in_an_ascii_locale(tmp_path: Path) -> None:
    """Files, and names, are as they are in every other locale; what is printed is ASCII."""
    (tmp_path / "\u03b7.gin").write_text("# \u03b7 wie gew\u00fcnscht\nDiffusionQL.eta = 2.0\n", encoding="utf-8")
    mine = ["Tracking.experiment='gr\u00f6\u00dfer'", "Experiment.cell='\u03b7 = 2'"]
    commands: list[list[str]] = [
        ["list"],
        ["data", "convert", str(MINI), "gr\u00f6\u00dfer.npz"],
        ["ablate", "--grid", str(ROOT / "ablations" / "eta.gin"), "--dry-run", "--out", "gr\u00f6\u00dfer"],
        [*QUICK, "--gin", "\u03b7.gin", "--out", "l\u00e4uft", "--set", *TINY, *mine],
        ["compare", "l\u00e4uft"],
        ["score", "walker2d", "gr\u00f6\u00dfer.txt"],
    ]
    words = [word for command in commands for word in (*command, ";")]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, *words], cwd=tmp_path, env=isolated(tmp_path) | ASCII, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    *said, wrong, _ = done.stderr.split(b"\0")
    assert done.stdout.isascii()
    assert [text[-1:] for text in done.stdout.split(b"\0")[:-1]] == [b"0"] * 5 + [b"2"], done.stderr
    assert [text for number, text in enumerate(said) if number != 3] == [b""] * 4, "but for what training warns of"
    assert wrong == b"dqlab: error: 'gr\\xf6\\xdfer.txt' is neither a number nor a file.\n"
    run = tmp_path / "l\u00e4uft"
    known = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (known["mlflow_experiment"], known["cell"]) == ("gr\u00f6\u00dfer", "\u03b7 = 2")
    assert "\u03b7 = 2" in (run / "config.gin").read_text(encoding="utf-8")


def test_the_home_folder_in_paths(in_process: Run, tmp_path: Path) -> None:
    """As shells do not write it out: behind `--out=`, in quotes, in variables."""
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "D4RL_DATASET_DIR": "~/d4rl", "MINARI_DATASETS_PATH": "~/minari"}
    (home / "returns.txt").write_text("12.5\n")
    (home / "data.hdf5").write_bytes(MINI.read_bytes())
    assert in_process("score", "walker2d", "~/returns.txt", env=env).returncode == 0
    listed = json.loads(in_process("data", "list", "--json", env=env).stdout)
    assert listed["d4rl"][0]["place"].startswith(f"{home}/d4rl/")
    source = "load_dataset.sources=('file:~/data.hdf5',)"
    run = in_process(*QUICK, "--out=~/run", "--set", *TINY, source, env=env)
    assert run.returncode == 0, run.stderr
    assert (home / "run" / "seed-0" / "summary.json").exists()
    assert in_process("compare", "~/run", env=env).returncode == 0
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("device", ["mps", "cude", "cuda:-1"])
def test_devices_that_dqlab_does_not_compute_on(in_process: Run, tmp_path: Path, device: str) -> None:
    done = in_process(*QUICK, "--out", "run", "--device", device, "--set", *TINY)
    refused(done, f"--device {device}: dqlab computes on cpu and cuda, or cuda:N")
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_extra_is_installed_from_where_dqlab_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pip_install("ray") == f"pip install -e '{ROOT}[ray]'"
    monkeypatch.setattr("dqlab.errors.PACKAGE", tmp_path / "dqlab")
    assert (pip_install("ray"), pip_install()) == ("pip install 'dqlab[ray]'", "pip install 'dqlab'")


NO_MEMORY = [
    "DefaultCPUAllocator: can't allocate memory: you tried",
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "std::bad_alloc",
    "Can't synchronously read data (memory allocation failed for chunk)",
]
OTHER = ["CUDA error: an illegal memory access was encountered", "mat1 and mat2 shapes cannot be multiplied"]


def test_what_says_that_there_is_no_memory() -> None:
    """Messages of PyTorch, CUDA, C++ and HDF5."""
    assert all(map(lacks_memory, [MemoryError(), OSError(12, "x"), *map(RuntimeError, NO_MEMORY)]))
    assert not any(map(lacks_memory, [OSError(28, "x"), *map(RuntimeError, OTHER)]))


def test_a_network_for_which_there_is_no_memory(dqlab: Run) -> None:
    done = dqlab(*QUICK, "--out", "run", "--set", *TINY, "MLPDenoiser.hidden_dim=1_000_000")
    refused(done, "error: not enough memory (")


def test_a_full_disk_is_one_line(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether anything is lost is not said: nobody knows here."""

    def fails(*args: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("dqlab.tools.score.score_returns", fails)
    refused(in_process("score", "walker2d", "1"), "dqlab: error: x: No space left on device.")


def test_a_command_that_is_ended_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A film is drawn into a folder beside it."""
    command = [sys.executable, "-m", "dqlab", "eval", "pretrained:walker2d-mini", "--render", "walk.gif"]
    with subprocess.Popen(command, cwd=tmp_path, env=isolated(tmp_path), stderr=subprocess.PIPE) as process:
        for _ in range(600):
            if list(tmp_path.glob(".walk.gif*")) or process.poll() is not None:
                break
            time.sleep(0.1)
        if process.poll() == 2:
            pytest.skip("nothing draws here")
        process.terminate()
        assert process.wait(60) == 143, process.stderr and process.stderr.read()
    assert not list(tmp_path.glob(".walk.gif*"))
