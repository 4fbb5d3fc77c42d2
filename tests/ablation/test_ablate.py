"""`dqlab ablate` from start to report, with real processes: finished, extended, shared, failed, killed, interrupted."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import forked
import pytest
from conftest import TINY, Done, Run, forget_configuration, isolated, refused
from made_packs import write_undrawn

from dqlab.cli import main
from dqlab.tracking.mlflow.client import all_runs, mlflow_client

GRID = """
include 'gin/diffql_walker2d.gin'
Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2, 3)}}
Grid.base = 'N=3'
Grid.seeds = (0, 1)
Grid.pack = 2
Report.reps = 100
Report.rules = ('last',)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "made.gin").write_text(GRID)
    write_undrawn(folder)
    return folder


def arguments(*more: str, steps: int = 40, grid: str = "made.gin", recorded: bool = False) -> list[str]:
    """Of a grid; only one that is recorded has a report with figures."""
    command = [sys.executable, "-m", "dqlab", "ablate", "--grid", grid, "--steps", str(steps)]
    plain = [] if recorded else ["--plugin", "undrawn"]
    return [*command, *more, *plain, "--set", *TINY, "Training.checkpoint_seconds=0.1", f"Tracking.mlflow={recorded}"]


def run(place: Path, *more: str, **options: object) -> Done:
    command = arguments(*more, **options)  # type: ignore[arg-type]
    return subprocess.run(command, cwd=place, env=isolated(place), capture_output=True, text=True, timeout=300)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command whose driver is this process; packs and the report have processes of their own, as ever."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for name, value in isolated(place).items():
        monkeypatch.setenv(name, value)
    for name in set(os.environ) - set(isolated(place)):
        monkeypatch.delenv(name)

    def command(*more: str, **options: object) -> Done:
        forget_configuration()
        code = main(arguments(*more, **options)[3:])  # type: ignore[arg-type]
        return subprocess.CompletedProcess(more, code, *capsys.readouterr())

    return command


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
    for seen in ("actions", "values", "chain"):
        assert f'<figure id="figure-{seen}_walker2d-medium-expert-v2"' in page
    facts = json.loads((place / "calm" / "grid.json").read_text())
    assert (facts["state"], facts["finished"], facts["failed"]) == ("finished", 4, 0)
    runs = all_runs(
        mlflow_client(facts["mlflow_uri"]),
        [mlflow_client(facts["mlflow_uri"]).get_experiment_by_name("made").experiment_id],
    )
    kinds = Counter((run.data.tags["kind"], run.info.status) for run in runs)
    assert kinds == {("grid", "FINISHED"): 1, ("pack", "FINISHED"): 2, ("cell", "FINISHED"): 4}


def test_a_cell_gives_what_it_gives_alone(place: Path, finished: Done, here: Run) -> None:
    """`dqlab train` with the cell's own config.gin repeats its summary to the last bit."""
    cell = next((place / "calm" / "packs").glob("*/cell-*"))
    forget_configuration()
    assert main(["train", "--gin", str(cell / "config.gin"), "--out", "alone", "-q"]) == 0
    alone = json.loads(next((place / "alone").glob("*/summary.json")).read_text())
    assert alone["evaluations"] == json.loads((cell / "summary.json").read_text())["evaluations"]


def test_what_is_finished_is_not_run_again(place: Path, finished: Done, here: Run) -> None:
    before = packs_run(place / "calm")
    again = here("--out", "calm")
    assert again.returncode == 0, again.stderr
    assert "4 finished, 0 failed before, 0 to train in 0 packs" in again.stdout
    assert packs_run(place / "calm") == before


def test_cells_that_a_changed_plugin_has_trained_are_told(place: Path, finished: Done) -> None:
    """Their ids do not show it: nothing is trained again unless that is asked for."""
    (place / "wave.py").write_text(WAVE)
    shutil.copytree(place / "calm", place / "changed")
    for path in (place / "changed" / "packs").glob("*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "plugin_sources": {"wave": "0" * 12}}))
    said = run(place, "--out", "changed", "--plugin", "wave", "--dry-run").stdout
    assert "warning: 4 cells finished before wave was changed. --force trains all cells again." in said
    known = sha256((place / "wave.py").read_bytes()).hexdigest()[:12]
    for path in (place / "changed" / "packs").glob("*/run.json"):
        path.write_text(path.read_text().replace("0" * 12, known))
    assert "changed." not in run(place, "--out", "changed", "--plugin", "wave", "--dry-run").stdout


WAVE = """
from torch import nn
from dqlab.networks.activations import activations

@activations.register("wave", source="mine")
def wave() -> nn.Module:
    return nn.Tanh()
"""


def test_a_report_is_of_what_the_folder_holds(place: Path, finished: Done, here: Run) -> None:
    """Without planning: what the command says otherwise is named, and no part of it."""
    before = scores(place / "calm")
    done = here("--out", "calm", "--report-only", "--seeds", "5", steps=50)
    assert done.returncode == 0, done.stderr
    assert "as it was planned last; changed since, and left out: " in done.stdout
    left_out = done.stdout.partition("left out: ")[2].partition(".\n")[0]
    assert {"Grid.seeds", "Training.steps"} == set(left_out.split(", "))
    assert scores(place / "calm") == before
    refused(here("--out", "nothing", "--report-only"), "nothing")


def test_a_grid_is_extended_in_a_folder_of_its_own_from_another(place: Path, finished: Done, here: Run) -> None:
    wider = here("--out", "wider", "--reuse", "calm", "--seeds", "0", "1", "2")
    assert wider.returncode == 0, wider.stderr
    assert "4 finished, 0 failed before, 2 to train" in wider.stdout
    assert [row["seed"] for row in scores(place / "wider")] == ["0", "1", "2"] * 2
    shared = [row["score_last"] for row in scores(place / "wider") if row["seed"] != "2"]
    assert shared == [row["score_last"] for row in scores(place / "calm")]


def test_a_dry_run_shows_the_plan_and_writes_nothing(place: Path, here: Run) -> None:
    done = here("--out", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"N=3 \(base\) .* 0 1 ", done.stdout)
    assert re.search(r"packs? at a time", done.stdout)
    assert "GiB of memory" in done.stdout
    assert not (place / "dry").exists()


DIVERGING = GRID.replace("DiffusionPolicy.n_timesteps': (2, 3)", "DiffusionQL.learning_rate': (1e-3, 1e30)")


def test_a_diverging_cell_is_reported_and_the_rest_go_on(place: Path, here: Run) -> None:
    (place / "diverging.gin").write_text(DIVERGING.replace("Grid.base = 'N=3'", "").replace("(0, 1)", "(0,)"))
    command = ("--out", "diverging")
    done = here(*command, grid="diverging.gin")
    assert done.returncode == 1, done.stderr
    assert re.search(r"N=1e\+30, walker2d-medium-expert-v2, seed 0: .*became NaN or infinite", done.stdout)
    states = {row["N"]: row["state"] for row in scores(place / "diverging")}
    assert states == {"0.001": "finished", "1e+30": "diverged"}
    assert "1 failed before, 0 to train" in here(*command, "--dry-run", grid="diverging.gin").stdout
    retried = here(*command, "--retry", grid="diverging.gin")
    assert "0 failed before, 1 to train" in retried.stdout
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
        end_of(place, "killed", signal.SIGKILL, rng.uniform(0.05, 0.45) * timed[1])
    done = run(place, "--out", "killed", "--storage", "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "killed" / "packs").resolve().parent == place / "store"
    assert scores(place / "killed") == scores(place / "calm")
    assert len(list((place / "killed" / "packs").glob("*/cell-*/summary.json"))) == 4  # none was trained twice


@pytest.mark.fresh_start
def test_ctrl_c_saves_and_ends_and_the_same_command_continues(
    place: Path, finished: Done, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(forked.template, "off", False)
    done = here("--out", "stopped")
    assert done.returncode == 0, done.stderr
    assert scores(place / "stopped") == scores(place / "calm")
