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
from conftest import ROOT, TINY, Done, Run, bindings, isolated

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


def test_a_run_ends_with_its_table_and_paths(finished: tuple[Path, str]) -> None:
    _, text = finished
    for words in ("last", "best-online", "offline", "mean-last-10", "untrained policy", "mean return of the data"):
        assert words in text
    assert "NOT D4RL DATA" in text
    scores = [line for line in text.splitlines() if re.search("seed.*score", line) and "│" not in line]
    assert len([line for line in scores if "not D4RL" in line]) >= 8  # four evaluations of two seeds
    assert "run/seed-3/curve.png" in text


def test_a_run_leaves_what_the_readme_says(finished: tuple[Path, str]) -> None:
    run, _ = finished
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "finished"
    assert facts["data"]["is_d4rl"] is False
    assert facts["variants"] == {"lr_schedule": "cosine", "offline_rule": "kth_lowest", "early_stop": "never"}
    for seed in (0, 3):
        names = {path.name for path in (run / f"seed-{seed}").iterdir()}
        assert names >= {"metrics.jsonl", "best_score_online.txt", "best_score_offline.txt"}
        summary = json.loads((run / f"seed-{seed}" / "summary.json").read_text())
        assert set(summary["selection"]) == {"last", "best_online", "offline", "mean_last_10"}
        assert summary["caveat"] == "not D4RL"
        assert (run / f"seed-{seed}" / "curve.png").read_bytes().startswith(b"\x89PNG")
        official = json.loads((run / f"seed-{seed}" / "best_score_offline.txt").read_text())
        assert official["model selection"] == "offline"
        kept = {int(path.stem.removeprefix("step-")) for path in (run / f"seed-{seed}" / "checkpoints").iterdir()}
        assert kept == {row["step"] for row in summary["selection"].values() if row["step"] is not None}


def test_the_stored_config_reproduces_the_run(finished: tuple[Path, str], in_process: Run, tmp_path: Path) -> None:
    run, _ = finished
    assert in_process("train", "--gin", str(run / "config.gin"), "--out", "again", "-q").returncode == 0
    for seed in (0, 3):
        summaries = [(out / f"seed-{seed}" / "summary.json").read_text() for out in (run, tmp_path / "again")]
        assert summaries[0] == summaries[1]


def test_eval_repeats_the_recorded_score(finished: tuple[Path, str], in_process: Run) -> None:
    """And cuts no figure in a narrow terminal."""
    run, _ = finished
    for which, rule in (("last", "last"), ("best", "best_online"), ("offline", "offline")):
        done = in_process("eval", str(run), "--checkpoint", which)
        assert done.returncode == 0, done.stderr
        for seed in (0, 3):
            row = json.loads((run / f"seed-{seed}" / "summary.json").read_text())["selection"][rule]
            line = next(line for line in done.stdout.splitlines() if f"seed {seed}" in line)
            cells = [cell.strip() for cell in line.split("│")]
            assert cells[2] == f"{row['step']:,}"
            assert float(cells[4]) == pytest.approx(row["return_mean"], abs=0.06)
        assert "not D4RL" in done.stdout
        assert "mujoco210" in done.stdout
    narrow = in_process("eval", str(run), "--episodes", "1", env={"COLUMNS": "60"})
    assert (narrow.returncode, "\u2026" in narrow.stdout) == (0, False)


def test_eval_of_a_grid_says_where_its_runs_are(in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "grid.json").write_text('{"name": "grid"}')
    check_mistake(in_process("eval", "grid"), "(no readable run.json). It is a grid's: its runs lie in packs/.")


def test_a_file_is_evaluated_as_what_it_is(finished: tuple[Path, str], in_process: Run) -> None:
    """Weights of seed 3 are one row, called seed 3, whatever else is asked."""
    run, _ = finished
    path = next((run / "seed-3" / "checkpoints").iterdir())
    text = in_process("eval", str(run), "--checkpoint", str(path), "--episodes", "4").stdout
    assert text.count("│ seed") == 1
    assert "seed 3" in text
    assert "│        4 │" in text


def test_eval_of_what_is_not_there_is_refused(finished: tuple[Path, str], in_process: Run) -> None:
    run, _ = finished
    done = in_process("eval", str(run), "--checkpoint", str(run / "checkpoint.safetensors"))
    check_mistake(done, "holds a training state")
    check_mistake(in_process("eval", str(run), "--seed", "9"), "has no seed 9; it has [0, 3]")
    check_mistake(in_process("eval", str(run), "--checkpoint", "lastt"), "There is no checkpoint 'lastt'")
    check_mistake(in_process("eval", str(run / "seed-9")), "has no replica 'seed-9'. ")
    check_mistake(in_process("eval", str(run / "config.gin")), "config.gin is no checkpoint: name a run's folder")


MISTAKES: dict[str, tuple[list[str], str]] = {
    "misspelt parameter": ([*QUICK, "--set", "DiffusionQL.etaa=1"], "Did you mean 'eta'"),
    "unknown name": ([*QUICK, "--set", "DiffusionQL.critic=twins"], "Unknown critic 'twins'. Did you mean 'twin'?"),
    "missing gin file": (["train", "--gin", "gin/quickstrat.gin"], "'gin/quickstrat.gin'. Did you mean "),
    "missing data file": ([*QUICK, "--set", "load_dataset.sources=('file:no.hdf5',)"], "no dataset at 'no.hdf5'"),
    "no data at all": ([*WALKER, "--set", "load_dataset.sources=('d4rl_cache',)"], "Put your copy into D4RL's cache"),
    "no CUDA": ([*QUICK, "--device", "cuda"], "PyTorch finds no CUDA device"),
    "tf32 without CUDA": ([*QUICK, "--set", "Experiment.precision=tf32"], "needs a CUDA device of compute capability"),
    "nothing to resume": ([*QUICK, "--resume"], "no unfinished run runs/quickstart-* to resume"),
    "unknown plugin": ([*QUICK, "--plugin", "no_such_plugin"], "cannot import 'no_such_plugin'"),
    "eval of nothing": (["eval"], "either a run's folder, or --official"),
    "official without a task": (["eval", "--official", "."], "--official wants --task"),
    "no official files": (["eval", "--official", ".", "--task", "hopper-medium-v2"], "No official checkpoint"),
    "nothing like it": (["\x1bzzzz"], r"no command '\x1bzzzz'. There are ablate, check, "),
    "no component named": (["describe", "sampler"], "Which sampler? Known: ddim, ddpm, "),
    "no gin file": (["train"], "Name a gin file"),
    "no recipe": (["collect"], "Name a gin file"),
    "no grid to report": (
        ["ablate", "--grid", "ablations/steps.gin", "--report-only", "--out", "none"],
        "none is not the folder of a grid",
    ),
    "a folder as gin file": (["train", "--gin", str(ROOT / "gin")], "is a folder"),
    "a file as folder": ([*QUICK, "--out", str(ROOT / "README.md")], "is a file, not a folder"),
    "wrong type inside": ([*QUICK, "--set", "MLPDenoiser.hidden_dim=64.0"], "hidden_dim must be of type int"),
    "an instance for a factory": ([*QUICK, "--set", "DiffusionQL.selection=@SoftmaxQ()"], "made-up numbers: TypeError"),
    "no source": ([*QUICK, "--set", "load_dataset.sources=()"], "load_dataset.sources is empty"),
    "bare word in a tuple": ([*QUICK, "--set", "load_dataset.sources=(embedded,)"], "strings in quotes"),
    "macro without a value": ([*QUICK, "--set", "Training.steps=%MY"], "%MY is used but has no value"),
    "huge seed": ([*QUICK, "--seeds", "99999999999999999999"], "below 2**32"),
    "plugin with its ending": ([*QUICK, "--plugin", "mine.py"], "Leave off '.py'"),
    "eval of a run with a task": (["eval", "x", "--task", "hopper-medium-v2"], "belong to --official"),
    "another part's parameter": ([*QUICK, "--set", "DiffusionQL.batch_size=64"], "Training.batch_size?"),
    "sync of nothing": (["sync", "nowhere"], "not the folder of a dqlab run"),
}


def check_mistake(done: Done, message: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "In call to configurable" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("usage")]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(in_process: Run, mistake: str) -> None:
    if "CUDA" in mistake and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    args, message = MISTAKES[mistake]
    check_mistake(in_process(*args), message)


def test_a_refused_start_leaves_no_run_behind(in_process: Run, tmp_path: Path) -> None:
    for binding in ("Training.execution=compil", "Experiment.precision=bf17"):
        check_mistake(in_process(*QUICK, "--set", binding, "--out", "mine"), "Did you mean")
    assert not (tmp_path / "mine").exists()


def test_damaged_data_is_one_line_and_leaves_no_half_run(in_process: Run, tmp_path: Path) -> None:
    with h5py.File(shutil.copy(MINI, tmp_path / "bad.hdf5"), "r+") as file:
        values = file["observations"][()]
        values[123, 4] = np.nan
        file["observations"][...] = values
    done = in_process(*QUICK, "--out", "run", *bindings(), "load_dataset.sources=('file:bad.hdf5',)")
    check_mistake(done, "'observations' has a NaN or infinite value in row 123")
    assert not (tmp_path / "run" / "run.json").exists()


def test_damaged_cache_is_not_silently_replaced(in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "d4rl").mkdir()
    (tmp_path / "d4rl" / "walker2d_medium_expert-v2.hdf5").write_bytes(MINI.read_bytes()[:100_000])
    check_mistake(in_process(*WALKER, "--steps", "10"), "truncated or not an HDF5 file")


def begin(folder: Path, args: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dqlab", *args]
    return subprocess.Popen(command, cwd=folder, env=isolated(folder), stdout=subprocess.DEVNULL)


def test_a_folder_in_use_or_taken(in_process: Run, tmp_path: Path) -> None:
    args = [*QUICK, "--out", "run", "--steps", "100000", *bindings()]
    first = begin(tmp_path, args)
    try:
        while not (tmp_path / "run" / "run.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        check_mistake(in_process(*args), f"is in use by another run (process {first.pid})")
        check_mistake(in_process(*args, "--resume"), "is in use by another run")
    finally:
        first.kill()
        first.wait()
    check_mistake(in_process(*args), "already holds a run. Use --resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lock").write_text("precious")
    check_mistake(in_process(*QUICK, "--out", "mine", *bindings()), "not empty and holds no run")
    assert [(item.name, item.read_text()) for item in (tmp_path / "mine").iterdir()] == [("lock", "precious")]


def test_a_resume_needs_no_gin_file(dqlab: Run, in_process: Run, tmp_path: Path) -> None:
    """Killed, evaluated as it is, resumed from what the folder knows."""
    args = [*QUICK, "--out", "run", "--steps", "200", *bindings("Training.checkpoint_seconds=0.0")]
    first = begin(tmp_path, args)
    while not list((tmp_path / "run" / "seed-0" / "checkpoints").glob("step-000000020.*")):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    chosen = json.loads((tmp_path / "run" / "run.json").read_text())["execution_reason"]
    assert "seed 0" in in_process("eval", "run").stdout
    check_mistake(in_process("eval", "run", "--checkpoint", "best"), "the run has not finished. Continue it")
    done = dqlab("train", "--resume", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert chosen != "as configured"
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["state"], facts["execution_reason"]) == ("finished", chosen)
    check_mistake(in_process("train", "--resume", "--out", "run"), "has finished: there is nothing to resume")


READS_NOTHING = {
    "eta=1": r"eta has no effect: .*Did you mean DiffusionQL\.eta\?",
    "BehaviourCloning.learning_rate=1e-5": r"\.learning_rate has no effect: .* DiffusionQL\.learning_rate",
    "LNResnet.hidden_dm=8": r"'LNResnet' has no parameter 'hidden_dm'\. Did you mean 'hidden_dim'\?",
    "patience.tolerance=3": r"patience\.tolerance has no effect",
}


@pytest.mark.parametrize(("binding", "message"), READS_NOTHING.items(), ids=READS_NOTHING.keys())
def test_what_nothing_reads_is_refused_by_every_door(
    finished: tuple[Path, str], in_process: Run, tmp_path: Path, binding: str, message: str
) -> None:
    """A parameter in the wrong place would leave its default, and hours of other results than the user believes."""
    doors = [
        [*QUICK, "--out", "made", *bindings(binding)],
        ["eval", str(finished[0]), "--set", binding],
        ["ablate", "--grid", str(ROOT / "ablations" / "eta.gin"), "--dry-run", *bindings(binding)],
        ["figure", "bandit", "--out", "made", "--set", binding.replace("BehaviourCloning.", "IQL.")],
        ["collect", "--gin", str(ROOT / "gin" / "collect_hopper.gin"), "--out", "made", "--set", binding],
    ]
    for door in doors if binding == "eta=1" else doors[1:2]:
        done = in_process(*door)
        check_mistake(done, "")
        wanted = message if door[0] in ("train", "eval") else message.partition(":")[0]
        assert re.search(wanted, done.stderr), (door, done.stderr)
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
    check_mistake(in_process("train", "--gin", "gin/quickstrat.gin"), "quickstart.gin'")


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_state(in_process: Run, tmp_path: Path) -> None:
    done = in_process(*QUICK, "--out", "run", *bindings("DiffusionQL.learning_rate=1e30", "DiffusionQL.grad_norm=0"))
    check_mistake(done, "became NaN or infinite")


PLUGIN = '''
import torch
from dqlab.diffusion import noise_schedules

@noise_schedules.register("flat", source="mine")
def flat(n_timesteps: int, beta: float = 0.3) -> torch.Tensor:
    """The same beta at every step."""
    return torch.full((n_timesteps,), beta, dtype=torch.float64)
'''


def test_a_ten_line_plugin(dqlab: Run, tmp_path: Path) -> None:
    """By --plugin and by an import line; its parameters are strict too; the stored config knows it."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert "The same beta at every step." in dqlab("list", "noise_schedule", "--plugin", "my_plugin", env=env).stdout
    args = [*QUICK, "--steps", "20", "-q", *bindings("DiffusionPolicy.schedule=flat", "flat.beta=0.2")]
    done = dqlab(*args, "--plugin", "my_plugin", "--out", "run", env=env)
    assert done.returncode == 0, done.stderr
    stored = (tmp_path / "run" / "config.gin").read_text()
    assert stored.startswith("import my_plugin")
    assert "flat.beta = 0.2" in stored
    assert dqlab("eval", "run", env=env).returncode == 0
    facts = tmp_path / "run" / "run.json"
    facts.write_text(facts.read_text().replace('"finished"', '"interrupted"'))
    (tmp_path / "my_plugin.py").write_text(PLUGIN.replace("(n_timesteps,), beta", "(n_timesteps,), beta / 2"))
    again = dqlab(*args, "--plugin", "my_plugin", "--out", "run", "--resume", env=env)
    assert (again.returncode, "my_plugin has changed since the run began" in again.stderr) == (0, True), again.stderr
    check_mistake(dqlab(*args, "--out", "other", env=env), "flat")
    (tmp_path / "mine.gin").write_text(f"import my_plugin\ninclude '{QUICK[2]}'\nflat.betta = 0.1\n")
    check_mistake(dqlab("train", "--gin", "mine.gin", env=env), "mine.gin:3: 'flat' has no parameter 'betta'")


def test_a_plugin_that_lies_here_is_found(tmp_path: Path) -> None:
    """By the installed command, to which Python does not add the current folder."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    command = [Path(sys.executable).with_name("dqlab"), "list", "noise_schedule", "--plugin", "my_plugin"]
    done = subprocess.run(command, cwd=tmp_path, env=isolated(tmp_path), capture_output=True, text=True, timeout=240)
    assert "The same beta at every step." in done.stdout, done.stderr


def test_bc_trains_only_the_actor(in_process: Run, tmp_path: Path) -> None:
    args = ["train", "--gin", str(ROOT / "gin" / "bc_walker2d.gin"), "--steps", "20", "--out", "run"]
    kept = [line for line in TINY if not line.startswith(("TwinCritic", "SoftmaxQ"))]
    assert in_process(*args, "--set", *kept).returncode == 0
    record = json.loads((tmp_path / "run" / "seed-0" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(record["metrics"]) == {"train/actor/bc_loss", "train/updates_per_second"}
    assert "DiffusionQL" not in (tmp_path / "run" / "config.gin").read_text()
