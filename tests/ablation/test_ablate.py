"""`dqlab ablate` from start to report, with real processes: finished, extended, shared, failed, killed, interrupted."""

from __future__ import annotations

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, isolated

from dqlab.cli import main
from dqlab.tracking.mlflow.client import all_runs, mlflow_client

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

GRID = """
include 'gin/diffql_walker2d.gin'
Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2, 3)}}
Grid.base = 'N=3'
Grid.seeds = (0, 1)
Grid.pack = 2
Report.reps = 100
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "made.gin").write_text(GRID)
    return folder


def arguments(*more: str, steps: int = 40, grid: str = "made.gin", recorded: bool = False) -> list[str]:
    command = [sys.executable, "-m", "dqlab.cli", "ablate", "--grid", grid, "--steps", str(steps)]
    return [*command, *more, "--set", *TINY, "Training.checkpoint_seconds=0.1", f"Tracking.mlflow={recorded}"]


def run(place: Path, *more: str, **options: object) -> Done:
    command = arguments(*more, **options)  # type: ignore[arg-type]
    return subprocess.run(command, cwd=place, env=isolated(place), capture_output=True, text=True, timeout=300)


def scores(grid: Path) -> list[dict[str, str]]:
    with (grid / "report" / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def packs_run(grid: Path) -> int:
    return len(list((grid / "packs").glob("*/run.json")))


@pytest.fixture(scope="module")
def timed(place: Path) -> tuple[Done, float]:
    """A whole grid and its seconds, as a new user has it: into an empty folder, recorded in a store beside it."""
    started = time.monotonic()
    return run(place, "--out", "calm", recorded=True), time.monotonic() - started


@pytest.fixture
def finished(timed: tuple[Done, float]) -> Done:
    return timed[0]


def test_a_grid_runs_to_its_report(place: Path, finished: Done) -> None:
    assert finished.returncode == 0, finished.stderr
    assert "2 settings x 1 task x 2 seeds = 4 cells; 0 finished" in finished.stdout
    assert "N=3 (base)" in finished.stdout
    assert "not D4RL" in finished.stdout
    rows = scores(place / "calm")
    assert [(row["N"], row["seed"]) for row in rows] == [("2", "0"), ("2", "1"), ("3", "0"), ("3", "1")]
    page = (place / "calm" / "report" / "index.html").read_text()
    assert "N=2" in page
    assert "Grid.axes" in page
    facts = json.loads((place / "calm" / "grid.json").read_text())
    assert (facts["state"], facts["finished"], facts["failed"]) == ("finished", 4, 0)
    runs = all_runs(
        mlflow_client(facts["mlflow_uri"]),
        [mlflow_client(facts["mlflow_uri"]).get_experiment_by_name("made").experiment_id],
    )
    kinds = Counter((run.data.tags["kind"], run.info.status) for run in runs)
    assert kinds == {("grid", "FINISHED"): 1, ("pack", "FINISHED"): 2, ("cell", "FINISHED"): 4}


def test_a_cell_gives_what_it_gives_alone(place: Path, finished: Done) -> None:
    """`dqlab train` with the cell's own config.gin repeats its summary to the last bit."""
    cell = next((place / "calm" / "packs").glob("*/cell-*"))
    command = [sys.executable, "-m", "dqlab.cli", "train", "--gin", str(cell / "config.gin"), "--out", "alone", "-q"]
    assert subprocess.run(command, cwd=place, env=isolated(place), timeout=200).returncode == 0
    alone = json.loads(next((place / "alone").glob("*/summary.json")).read_text())
    assert alone["evaluations"] == json.loads((cell / "summary.json").read_text())["evaluations"]


def test_what_is_finished_is_not_run_again(place: Path, finished: Done) -> None:
    before = packs_run(place / "calm")
    again = run(place, "--out", "calm")
    assert again.returncode == 0, again.stderr
    assert "4 finished, 0 failed before, 0 to train in 0 packs" in again.stdout
    assert packs_run(place / "calm") == before


def test_a_report_is_of_what_the_folder_holds(place: Path, finished: Done) -> None:
    """Without planning: what the command says otherwise is named, and no part of it."""
    before = scores(place / "calm")
    done = run(place, "--out", "calm", "--report-only", "--seeds", "5", steps=50)
    assert done.returncode == 0, done.stderr
    assert "as it was planned last; changed since, and left out: " in done.stdout
    left_out = done.stdout.partition("left out: ")[2].partition(".\n")[0]
    assert {"Grid.seeds", "Training.steps"} == set(left_out.split(", "))
    assert scores(place / "calm") == before
    done = run(place, "--out", "calm", "--report-only")
    assert "left out" not in done.stdout
    done = run(place, "--out", "nothing", "--report-only")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nothing" in done.stderr


def test_a_grid_is_extended_in_a_folder_of_its_own_from_another(place: Path, finished: Done) -> None:
    wider = run(place, "--out", "wider", "--reuse", "calm", "--seeds", "0", "1", "2")
    assert wider.returncode == 0, wider.stderr
    assert "4 finished, 0 failed before, 2 to train" in wider.stdout
    assert [row["seed"] for row in scores(place / "wider")] == ["0", "1", "2"] * 2
    shared = [row["score_last"] for row in scores(place / "wider") if row["seed"] != "2"]
    assert shared == [row["score_last"] for row in scores(place / "calm")]


def test_a_dry_run_shows_the_plan_and_writes_nothing(place: Path) -> None:
    done = run(place, "--out", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"N=3 \(base\) .* 0 1 ", done.stdout)
    assert "packs at a time" in done.stdout
    assert "GiB of memory" in done.stdout
    assert not (place / "dry").exists()


DIVERGING = GRID.replace(
    "{'DiffusionPolicy.n_timesteps': (2, 3)}", "{'DiffusionQL.learning_rate': (1e-3, 1e30)}"
).replace("Grid.base = 'N=3'", "")


def test_a_diverging_cell_is_reported_and_the_rest_go_on(place: Path) -> None:
    (place / "diverging.gin").write_text(DIVERGING)
    done = run(place, "--out", "diverging", grid="diverging.gin")
    assert done.returncode == 1, done.stderr
    assert re.search(r"N=1e\+30, walker2d-medium-expert-v2, seed 0: .*became NaN or infinite", done.stdout)
    states = {(row["N"], row["seed"]): row["state"] for row in scores(place / "diverging")}
    assert states == {
        ("0.001", "0"): "finished",
        ("0.001", "1"): "finished",
        ("1e+30", "0"): "diverged",
        ("1e+30", "1"): "diverged",
    }
    again = run(place, "--out", "diverging", grid="diverging.gin")
    assert again.returncode == 1
    assert "2 failed before, 0 to train" in again.stdout
    retried = run(place, "--out", "diverging", "--retry", grid="diverging.gin")
    assert "0 failed before, 2 to train" in retried.stdout
    assert retried.returncode == 1


def end_of(place: Path, name: str, number: signal.Signals, wait: float) -> int:
    """Start a grid, whose packs lie in a storage, and send its driver a signal after a while; its exit code."""
    log, command = (place / f"{name}.log").open("a"), arguments("--out", name, "--storage", "store")
    process = subprocess.Popen(command, cwd=place, env=isolated(place), stdout=log, stderr=log)
    time.sleep(wait)
    process.send_signal(number)
    return process.wait(120)


def test_killed_at_any_moment_the_same_command_ends_with_the_same_table(place: Path, timed: tuple[Done, float]) -> None:
    rng = random.Random()
    for _ in range(2):
        end_of(place, "killed", signal.SIGKILL, rng.uniform(0.1, 0.7) * timed[1])
    done = run(place, "--out", "killed", "--storage", "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "killed" / "packs").resolve().parent == place / "store"
    assert scores(place / "killed") == scores(place / "calm")
    assert len(list((place / "killed" / "packs").glob("*/cell-*/summary.json"))) == 4  # none was trained twice


@pytest.mark.fresh_start
def test_ctrl_c_saves_and_ends_and_the_same_command_continues(place: Path, finished: Done) -> None:
    process = subprocess.Popen(
        arguments("--out", "stopped", "--workers", "1"),
        cwd=place,
        env=isolated(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:  # as soon as the first pack trains
        if "running" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130, rest + errors
    assert "Stopping: packs write their checkpoints" in rest
    assert "the same command continues" in rest
    assert "Traceback" not in errors
    assert json.loads((place / "stopped" / "grid.json").read_text())["state"] == "interrupted"
    done = run(place, "--out", "stopped")
    assert done.returncode == 0, done.stderr
    assert scores(place / "stopped") == scores(place / "calm")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--engine", "locl"), "Unknown engine 'locl'. Did you mean 'local'?"),
        (("--out", "holds"), "holds is not empty and holds no grid. Choose another --out."),
        (("--reuse", "nowhere"), "nowhere is not the folder of a grid"),
        (("--tasks", "walker2d"), "Unknown task 'walker2d'."),
        (("--seeds", "0", "0"), "Grid.seeds must be a tuple of different integers"),
    ],
)
def test_mistakes_are_one_line(
    place: Path,
    more: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    (place / "holds").mkdir(exist_ok=True)
    (place / "holds" / "something").touch()
    assert main(arguments(*more)[3:]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dqlab: error: ")
    assert message in errors
    assert errors.count("\n") == 1
