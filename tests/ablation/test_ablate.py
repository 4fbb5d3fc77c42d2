"""`dqlab ablate` from start to report, with real processes: finished, extended, shared, failed, killed, interrupted.

That a cell gives what it gives alone: training/test_cells.py.
"""

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


def command(*more: str, steps: int = 40, grid: str = "made.gin", recorded: bool = False) -> list[str]:
    """Of a grid; only one that is recorded has a report with figures."""
    plain = [] if recorded else ["--plugin", "undrawn"]
    own = [*more, *plain, "--set", *TINY, "Training.checkpoint_seconds=0.1", f"Tracking.mlflow={recorded}"]
    return [sys.executable, "-m", "dqlab", "ablate", "--grid", grid, "--steps", str(steps), *own]


def start(place: Path, arguments: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, cwd=place, env=isolated(place), stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command whose driver is this process; packs and the report have processes of their own, as ever."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for name, value in isolated(place).items():
        monkeypatch.setenv(name, value)
    for name in set(os.environ) - set(isolated(place)):
        monkeypatch.delenv(name)

    def run(*more: str, **options: object) -> Done:
        forget_configuration()
        code = main(command(*more, **options)[3:])  # type: ignore[arg-type]
        return subprocess.CompletedProcess(more, code, *capsys.readouterr())

    return run


def scores(grid: Path) -> list[dict[str, str]]:
    with (grid / "report" / "scores.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def timed(place: Path) -> tuple[str, float]:
    """What a whole grid prints, and its seconds, as a new user has it: into an empty folder, recorded beside it."""
    started, process = time.monotonic(), start(place, command("--out", "calm", recorded=True))
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed, time.monotonic() - started


@pytest.fixture
def finished(timed: tuple[str, float]) -> str:
    return timed[0]


def test_a_grid_runs_to_its_report(place: Path, finished: str) -> None:
    for said in ("2 settings x 1 task x 2 seeds = 4 cells; 0 finished", "N=3 (base)", "not D4RL"):
        assert said in finished
    rows = scores(place / "calm")
    assert [(row["N"], row["seed"]) for row in rows] == [("2", "0"), ("2", "1"), ("3", "0"), ("3", "1")]
    page = (place / "calm" / "report" / "index.html").read_text()
    figures = [f'<figure id="figure-{seen}_walker2d-medium-expert-v2"' for seen in ("actions", "values", "chain")]
    assert all(shown in page for shown in ("N=2", "Grid.axes", *figures))
    facts = json.loads((place / "calm" / "grid.json").read_text())
    assert (facts["state"], facts["finished"], facts["failed"]) == ("finished", 4, 0)
    client = mlflow_client(facts["mlflow_uri"])
    runs = all_runs(client, [client.get_experiment_by_name("made").experiment_id])
    kinds = Counter((run.data.tags["kind"], run.info.status) for run in runs)
    assert kinds == {("grid", "FINISHED"): 1, ("pack", "FINISHED"): 2, ("cell", "FINISHED"): 4}


def test_cells_that_a_changed_plugin_has_trained_are_told(place: Path, finished: str) -> None:
    """Their ids do not show it: nothing is trained again unless that is asked for."""
    (place / "wave.py").write_text(WAVE)
    shutil.copytree(place / "calm", place / "changed")
    known = sha256((place / "wave.py").read_bytes()).hexdigest()[:12]
    for digest, told in (("0" * 12, True), (known, False)):
        for path in (place / "changed" / "packs").glob("*/run.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "plugin_sources": {"wave": digest}}))
        said, _ = start(place, command("--out", "changed", "--plugin", "wave", "--dry-run")).communicate(timeout=300)
        warning = "warning: 4 cells finished before wave was changed. --force trains all cells again."
        assert (warning in said) == told


WAVE = """
from torch import nn
from dqlab.networks.activations import activations

@activations.register("wave", source="mine")
def wave() -> nn.Module:
    return nn.Tanh()
"""


def test_what_is_finished_is_reported_again_not_run_again(place: Path, finished: str, here: Run) -> None:
    """A report without planning names what the command says otherwise, and shows no part of it."""
    before = scores(place / "calm")
    again = here("--out", "calm")
    assert again.returncode == 0, again.stderr
    assert "4 finished, 0 failed before, 0 to train in 0 packs" in again.stdout
    assert len(list((place / "calm" / "packs").glob("*/run.json"))) == 2
    done = here("--out", "calm", "--report-only", "--seeds", "5", steps=50)
    assert done.returncode == 0, done.stderr
    left_out = done.stdout.partition("as it was planned last; changed since, and left out: ")[2].partition(".\n")[0]
    assert set(left_out.split(", ")) == {"Grid.seeds", "Training.steps"}
    assert scores(place / "calm") == before
    refused(here("--out", "nothing", "--report-only"), "nothing")


def test_a_grid_is_extended_in_a_folder_of_its_own_from_another(place: Path, finished: str, here: Run) -> None:
    wider = here("--out", "wider", "--reuse", "calm", "--seeds", "0", "1", "2")
    assert wider.returncode == 0, wider.stderr
    assert "4 finished, 0 failed before, 2 to train" in wider.stdout
    assert [row["seed"] for row in scores(place / "wider")] == ["0", "1", "2"] * 2
    shared = [row["score_last"] for row in scores(place / "wider") if row["seed"] != "2"]
    assert shared == [row["score_last"] for row in scores(place / "calm")]


def test_a_dry_run_shows_the_plan_and_writes_nothing(place: Path, here: Run) -> None:
    done = here("--out", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    shown = r"N=3 \(base\) .* 0 1 .*About \S+ \w+ with \d packs? at a time .*About (?!0\.0)\S+ GiB of memory"
    assert re.search(shown, done.stdout, re.DOTALL)
    assert not (place / "dry").exists()


def test_a_diverging_cell_is_reported_and_the_rest_go_on(place: Path, here: Run) -> None:
    rates = GRID.replace("DiffusionPolicy.n_timesteps': (2, 3)", "DiffusionQL.learning_rate': (1e-3, 1e30)")
    (place / "diverging.gin").write_text(rates.replace("Grid.base = 'N=3'", "").replace("(0, 1)", "(0,)"))
    asked = ("--out", "diverging")
    for more, left in (((), "0 failed before, 2 to train"), (("--retry",), "0 failed before, 1 to train")):
        done = here(*asked, *more, grid="diverging.gin")
        assert done.returncode == 1, done.stderr
        assert left in done.stdout
        assert re.search(r"N=1e\+30, walker2d-medium-expert-v2, seed 0: .*became NaN or infinite", done.stdout)
        states = {row["N"]: row["state"] for row in scores(place / "diverging")}
        assert states == {"0.001": "finished", "1e+30": "diverged"}
        assert "1 failed before, 0 to train" in here(*asked, "--dry-run", grid="diverging.gin").stdout


def test_killed_at_any_moment_the_same_command_ends_with_the_same_table(
    place: Path, timed: tuple[str, float], here: Run
) -> None:
    stored = ("--out", "killed", "--storage", "store")
    for _ in range(2):
        process = start(place, command(*stored))
        time.sleep(random.uniform(0.05, 0.45) * timed[1])
        process.kill()
        process.communicate(timeout=120)
    done = here(*stored)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "killed" / "packs").resolve().parent == place / "store"
    assert scores(place / "killed") == scores(place / "calm")
    assert len(list((place / "killed" / "packs").glob("*/cell-*/summary.json"))) == 4  # none was trained twice


@pytest.mark.fresh_start
def test_ctrl_c_saves_and_ends_and_the_same_command_continues(
    place: Path, finished: str, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(place, command("--out", "stopped", "--workers", "1"))
    assert process.stdout is not None
    next(line for line in process.stdout if "running" in line)  # as soon as the first pack trains
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
