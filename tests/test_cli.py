"""The command line: the whole path, and every mistake as one line with exit code 2 and no traceback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, Run, bindings, isolated, refused

QUICK = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin")]
MINI = ROOT / "dqlab" / "data" / "embedded" / "walker2d-medium-expert-mini.hdf5"
WALKER = ["train", "--gin", str(ROOT / "gin" / "diffql_walker2d.gin")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One tiny run of two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "dqlab", *QUICK, "--seeds", "0", "3", "--steps", "60", "--out", "run"]
    options = {"cwd": folder, "env": isolated(folder), "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([*command, *bindings()], check=True, **options)  # type: ignore[call-overload]
    return folder / "run", done.stdout


def summary_of(run: Path, seed: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((run / f"seed-{seed}" / "summary.json").read_text())
    return found


def test_a_run_says_and_leaves_what_the_readme_says(finished: tuple[Path, str]) -> None:
    run, text = finished
    for words in ("last", "best-online", "offline", "mean-last-10", "untrained policy", "mean return of the data"):
        assert words in text
    assert "NOT D4RL DATA" in text
    scores = [line for line in text.splitlines() if re.search("seed.*score", line) and "│" not in line]
    assert len([line for line in scores if "not D4RL" in line]) >= 8  # four evaluations of two seeds
    assert "run/seed-3/curve.png" in text
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["data"]["is_d4rl"]) == ("finished", False)
    assert facts["variants"] == {"lr_schedule": "cosine", "offline_rule": "kth_lowest", "early_stop": "never"}
    for seed in (0, 3):
        folder, summary = run / f"seed-{seed}", summary_of(run, seed)
        assert {path.name for path in folder.iterdir()} >= {"metrics.jsonl", "best_score_online.txt"}
        assert set(summary["selection"]) == {"last", "best_online", "offline", "mean_last_10"}
        assert summary["caveat"] == "not D4RL"
        assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((folder / "best_score_offline.txt").read_text())["model selection"] == "offline"
        kept = {int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").iterdir()}
        assert kept == {row["step"] for row in summary["selection"].values() if row["step"] is not None}


def test_the_stored_config_reproduces_the_run(finished: tuple[Path, str], in_process: Run, tmp_path: Path) -> None:
    run, _ = finished
    assert in_process("train", "--gin", str(run / "config.gin"), "--out", "again", "-q").returncode == 0
    for seed in (0, 3):
        assert summary_of(run, seed) == summary_of(tmp_path / "again", seed)


def test_eval_repeats_the_recorded_score(finished: tuple[Path, str], in_process: Run) -> None:
    """And cuts no figure in a narrow terminal; weights of seed 3 are one row, called seed 3, whatever else is asked."""
    run, _ = finished
    for which, rule in (("last", "last"), ("best", "best_online"), ("offline", "offline")):
        done = in_process("eval", str(run), "--checkpoint", which)
        assert done.returncode == 0, done.stderr
        for seed in (0, 3):
            row = summary_of(run, seed)["selection"][rule]
            line = next(line for line in done.stdout.splitlines() if f"seed {seed}" in line)
            cells = [cell.strip() for cell in line.split("│")]
            assert cells[2] == f"{row['step']:,}"
            assert float(cells[4]) == pytest.approx(row["return_mean"], abs=0.06)
        assert "not D4RL" in done.stdout
        assert "mujoco210" in done.stdout
    narrow = in_process("eval", str(run), "--episodes", "1", env={"COLUMNS": "60"})
    assert (narrow.returncode, "\u2026" in narrow.stdout) == (0, False)
    path = next((run / "seed-3" / "checkpoints").iterdir())
    text = in_process("eval", str(run), "--checkpoint", str(path), "--episodes", "4").stdout
    assert (text.count("│ seed"), "seed 3" in text, "│        4 │" in text) == (1, True, True)


def test_eval_of_what_is_not_there_is_refused(finished: tuple[Path, str], in_process: Run, tmp_path: Path) -> None:
    run, _ = finished
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "grid.json").write_text('{"name": "grid"}')
    for args, said in (
        (["grid"], "(no readable run.json). It is a grid's: its runs lie in packs/."),
        ([run, "--checkpoint", run / "checkpoint.safetensors"], "holds a training state"),
        ([run, "--seed", "9"], "has no seed 9; it has [0, 3]"),
        ([run, "--checkpoint", "lastt"], "There is no checkpoint 'lastt'"),
        ([run / "seed-9"], "has no replica 'seed-9'. "),
        ([run / "config.gin"], "config.gin is no checkpoint: name a run's folder"),
    ):
        refused(in_process("eval", *map(str, args)), said)


MISTAKES: list[tuple[list[str], str]] = [
    ([*QUICK, "--set", "DiffusionQL.etaa=1"], "--set DiffusionQL.etaa=1: 'DiffusionQL' has no parameter 'etaa'"),
    ([*QUICK, "--set", "DiffusionQL.eta=abc"], "--set DiffusionQL.eta must be of type float, not 'abc'"),
    ([*QUICK, "--set", "DiffusionQL.batch_size=64"], "Training.batch_size?"),
    ([*QUICK, "--set", "DiffusionQL.selection=@SoftmaxQ()"], "made-up numbers: TypeError"),
    ([*QUICK, "--set", "Training.top_k=(1, @vp())"], "'n_timesteps'. Bind it in gin, or leave off the () behind"),
    ([*QUICK, "--set", "Experiment.task=@Experiment()"], "made of itself: bindings in gin lead back"),
    ([*QUICK, "--set", "Training.steps=%MY"], "%MY is used but has no value"),
    ([*QUICK, "--set", "load_dataset.sources=()"], "load_dataset.sources is empty"),
    ([*QUICK, "--set", "load_dataset.sources=(embedded,)"], "strings in quotes"),
    ([*QUICK, "--set", "load_dataset.sources=('file:no.hdf5',)"], "no dataset at 'no.hdf5'"),
    ([*WALKER, "--set", "load_dataset.sources=('d4rl_cache',)"], "Put your copy into D4RL's cache"),
    ([*QUICK, "--device", "cuda"], "PyTorch finds no CUDA device"),
    ([*QUICK, "--set", "Experiment.precision=tf32"], "needs a CUDA device of compute capability"),
    ([*QUICK, "--set", "Experiment.precision=bf16", "Experiment.dtype=float64"], "'full', as dtype is 'float64'"),
    ([*QUICK, "--seeds", "99999999999999999999"], "below 2**32"),
    ([*QUICK, "--resume"], "--resume wants the run's folder: --out RUN"),
    ([*QUICK, "--out", str(ROOT / "README.md")], "is a file, not a folder"),
    ([*QUICK, "--plugin", "no_such_plugin"], "cannot import 'no_such_plugin'"),
    ([*QUICK, "--plugin", "mine.py"], "Leave off '.py'"),
    ([*QUICK, "--plugin", "./mine.py"], "'./mine.py' is a path. Name the module, 'mine'"),
    (["train", "--gin", "gin/quickstrat.gin"], "'gin/quickstrat.gin'. Did you mean "),
    (["train", "--gin", str(ROOT / "gin")], "is a folder"),
    (["train"], "Name a gin file"),
    (["collect"], "Name a gin file"),
    (["eval"], "either a run's folder, or --official"),
    (["eval", "--official", "."], "--official wants --task"),
    (["eval", "x", "--task", "hopper-medium-v2"], "belong to --official"),
    (["describe", "sampler"], "Which sampler? Known: ddim, ddpm, "),
    (["ablate", "--grid", "ablations/steps.gin", "--report-only", "--out", "none"], "none is not the folder of a grid"),
    (["sync", "nowhere"], "not the folder of a dqlab run"),
    (["\x1bzzzz"], r"no command '\x1bzzzz'. There are ablate, check, "),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_are_one_line_and_exit_code_2(in_process: Run, args: list[str], message: str) -> None:
    if "CUDA" in message and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert "In call to configurable" not in refused(in_process(*args), message)


def test_a_refused_start_leaves_no_run_behind(in_process: Run, tmp_path: Path) -> None:
    """Nor is a damaged file in D4RL's cache silently replaced."""
    with h5py.File(shutil.copy(MINI, tmp_path / "bad.hdf5"), "r+") as file:
        values = file["observations"][()]
        values[123, 4] = np.nan
        file["observations"][...] = values
    for binding, said in (
        ("Training.execution=compil", "Did you mean"),
        ("load_dataset.sources=('file:bad.hdf5',)", "'observations' has a NaN or infinite value in row 123"),
    ):
        refused(in_process(*QUICK, "--out", "run", *bindings(), binding), said)
    assert not (tmp_path / "run" / "run.json").exists()
    (tmp_path / "d4rl").mkdir()
    (tmp_path / "d4rl" / "walker2d_medium_expert-v2.hdf5").write_bytes(MINI.read_bytes()[:100_000])
    refused(in_process(*WALKER, "--steps", "10"), "truncated or not an HDF5 file")


def begin(folder: Path, args: list[str], sign: str) -> subprocess.Popen[bytes]:
    """Start a run, and wait for a file in its folder."""
    command = [sys.executable, "-m", "dqlab", *args, "--out", "run"]
    process = subprocess.Popen(command, cwd=folder, env=isolated(folder), stdout=subprocess.DEVNULL)
    while not list((folder / "run").glob(sign)):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_folder_in_use_or_taken(in_process: Run, tmp_path: Path) -> None:
    args = [*QUICK, "--steps", "100000", *bindings()]
    first = begin(tmp_path, args, "run.json")
    try:
        refused(in_process(*args, "--out", "run"), f"is in use by another run (process {first.pid})")
        refused(in_process(*args, "--out", "run", "--resume"), "is in use by another run")
    finally:
        first.kill()
        first.wait()
    refused(in_process(*args, "--out", "run"), "already holds a run. Use --resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lock").write_text("precious")
    refused(in_process(*QUICK, "--out", "mine", *bindings()), "not empty and holds no run")
    assert [(item.name, item.read_text()) for item in (tmp_path / "mine").iterdir()] == [("lock", "precious")]


def test_a_resume_needs_no_gin_file(dqlab: Run, in_process: Run, tmp_path: Path) -> None:
    """Killed, evaluated as it is, resumed from what the folder knows, and as nothing else."""
    args = [*QUICK, "--steps", "200", *bindings("Training.checkpoint_seconds=0.0")]
    first = begin(tmp_path, args, "seed-0/checkpoints/step-000000020.*")
    first.kill()
    first.wait()
    facts = tmp_path / "run" / "run.json"
    chosen = json.loads(facts.read_text())["execution_reason"]
    assert chosen != "as configured"
    assert "seed 0" in in_process("eval", "run").stdout
    refused(in_process("eval", "run", "--checkpoint", "best"), "the run has not finished. Continue it")
    with h5py.File(shutil.copy(MINI, tmp_path / "other.hdf5"), "r+") as file:
        file["rewards"][0] += 1.0
    other = in_process(
        *args, "DiffusionQL.eta=2.0", "load_dataset.sources=('file:other.hdf5',)", "--out=run", "--resume"
    )
    refused(other, "another configuration: DiffusionQL.eta: 1.0 before, 2.0 now; ", "; dataset: SHA-256 ")
    done = dqlab("train", "--resume", "--out", "run")
    assert (done.returncode, "resuming at step" in done.stdout) == (0, True), done.stderr
    after = json.loads(facts.read_text())
    assert (after["state"], after["execution_reason"]) == ("finished", chosen)
    refused(in_process("train", "--resume", "--out", "run"), "has finished: there is nothing to resume")


READS_NOTHING = {
    "eta=1": r"eta has no effect: .*Did you mean DiffusionQL\.eta\?",
    "BehaviourCloning.learning_rate=1e-5": r"\.learning_rate has no effect: .* DiffusionQL\.learning_rate",
    "LNResnet.hidden_dm=8": r"'LNResnet' has no parameter 'hidden_dm'\. Did you mean 'hidden_dim'\?",
    "patience.tolerance=3": r"patience\.tolerance has no effect",
}


def test_what_nothing_reads_is_refused_by_every_door(
    finished: tuple[Path, str], in_process: Run, tmp_path: Path
) -> None:
    """A parameter in the wrong place would leave its default, and hours of other results than the user believes."""
    for binding, message in READS_NOTHING.items():
        assert re.search(message, refused(in_process("eval", str(finished[0]), "--set", binding)))
    for door in (
        [*QUICK, "--out", "made", *bindings("eta=1")],
        ["ablate", "--grid", str(ROOT / "ablations" / "eta.gin"), "--dry-run", *bindings("eta=1")],
        ["figure", "bandit", "--out", "made", "--set", "eta=1"],
        ["collect", "--gin", str(ROOT / "gin" / "collect_hopper.gin"), "--out", "made", "--set", "eta=1"],
    ):
        refused(in_process(*door), "eta has no effect")
    assert {path.name for path in tmp_path.glob("made/*")} <= {"run.lock"}, "nothing has begun"


def test_what_some_cells_of_a_grid_read_is_no_mistake(in_process: Run, tmp_path: Path) -> None:
    axes = "{'algorithm': {'DQL': {}, 'BC': {'Experiment.algorithm': 'bc'}}}"
    (tmp_path / "grid.gin").write_text(f"include '{ROOT / 'gin' / 'quickstart.gin'}'\nGrid.axes = {axes}\n")
    some = bindings("BehaviourCloning.learning_rate=1e-5", "load_dataset.standardise_states=True")
    grid = in_process("ablate", "--grid", "grid.gin", "--dry-run", *some)
    assert grid.returncode == 0, grid.stderr


@pytest.mark.parametrize("checkout", [False, True])
def test_what_nothing_reads_in_a_file_is_said(in_process: Run, tmp_path: Path, checkout: bool) -> None:
    """By file and line; not of dqlab's own files, which are found by name, and in a checkout by relative paths.

    A stopping rule's own parameter is read late, but read, and stored.
    """
    if checkout:
        (tmp_path / "gin").symlink_to(ROOT / "gin")
    mine = "include 'gin/quickstart.gin'\neta = 0.5\nBehaviourCloning.learning_rate = 1e-5\n"
    (tmp_path / "mine.gin").write_text(mine)
    rule = ("Training.early_stop='patience'", "patience.tolerance=3", "load_dataset.standardise_states=True")
    done = in_process("train", "--gin", "mine.gin", "--steps", "10", "-q", "--out", "run", *bindings(*rule))
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stderr.splitlines() if "no effect" in line)
    assert first.startswith("dqlab: warning: mine.gin:2: eta has no effect")
    assert second.startswith("dqlab: warning: mine.gin:3: BehaviourCloning.learning_rate has no effect")
    assert "patience.tolerance = 3" in (tmp_path / "run" / "config.gin").read_text()
