"""A task of the user's own in every command: `Experiment.task = @gymnasium_task()`, on what `dqlab collect` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Done, Run, refused
from made_own import ENV_ID, task_gin, write_data, write_module

from dqlab.config.gin_files import parse_bindings
from dqlab.envs.custom import gymnasium_task
from dqlab.errors import ConfigError

SAFE = {"PYTHONSAFEPATH": "1"}
"""As the installed command: Python itself does not look for modules in the current folder."""
SHORT = [*TINY[1:], "Training.steps=4", "Training.eval_every=2"]
AXES = """
Grid.axes = {'eta': {'DiffusionQL.eta': (0.5, 1.0)}}
Grid.seeds = (0,)
LocalEngine.workers = 1
Report.reps = 100
"""


def fine(done: Done) -> str:
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_a_collected_set_in_every_command(tmp_path: Path, dqlab: Run) -> None:
    """Each knows the task that `collect` wrote, and finds its module, which lies beside the recipe.

    Without reference scores: in every command numbers are returns, and called so.
    """
    run, mine, name = tmp_path / "run", tmp_path / "mine", "rail-own-Rail-v0"
    mine.mkdir()
    write_module(mine)
    recipe = [f"Collection.env_id = {ENV_ID!r}", "Collection.mixture = {'random': 1.0}", "Collection.episodes = 2"]
    (mine / "random.gin").write_text("\n".join([*recipe, "Collection.name = 'made'", ""]))
    fine(dqlab("collect", "--gin", "mine/random.gin", "--out", "out", env=SAFE))
    made = tmp_path / "out" / "made.gin"
    assert parse_bindings(made.read_text())["import_path.folders"] == (str(mine),)
    made.write_text("\n".join(line for line in made.read_text().splitlines() if "_score =" not in line))
    said = fine(dqlab("train", "--gin", "out/made.gin", "--out", "run", "--set", *SHORT, env=SAFE))
    assert "return" in said
    assert " score " not in said
    stored = parse_bindings((run / "config.gin").read_text())
    assert stored["import_path.folders"] == (str(mine),)
    assert stored["load_dataset.sources"] == (f"file:{tmp_path}/out/made.hdf5",)
    (tmp_path / "else").mkdir()
    fine(dqlab("train", "--gin", str(run / "config.gin"), "--out", "else/run", env=SAFE))
    summaries = [json.loads((place / "seed-0" / "summary.json").read_text()) for place in (run, tmp_path / "else/run")]
    assert summaries[0] == summaries[1]
    assert summaries[0]["caveat"] == "not D4RL; returns, no scores"
    assert all(row["score_mean"] == row["return_mean"] for row in summaries[0]["selection"].values())
    assert not list(run.rglob("best_score_*.txt"))
    evaluation, allowed = ["eval", "run", "--checkpoint", "best"], f"import_path.folders=('{mine}',)"
    shutil.copy(mine / "rail.py", run)
    done = dqlab(*evaluation, env=SAFE)  # not on the word of a run's folder, which may be a stranger's, nor from it
    assert (done.returncode, allowed in done.stderr, "No module named 'rail'" in done.stderr) == (2, True, True)
    assert "score" not in fine(dqlab(*evaluation, "--set", allowed, env=SAFE)).replace("no scores", "")
    (tmp_path / "grid.gin").write_text("include 'out/made.gin'\n" + "\n".join(SHORT) + AXES)
    grid = ["ablate", "--grid", "grid.gin", "--out", "grid"]
    fine(dqlab(*grid, "--tasks", name, env=SAFE))
    pack = next((tmp_path / "grid" / "packs").iterdir())
    fine(dqlab("eval", str(pack), "--set", allowed, env=SAFE))
    report = (tmp_path / "grid" / "report" / "index.html").read_text()
    assert "Returns (not D4RL; returns, no scores)." in report
    assert "ormalised score" not in report
    fine(dqlab("ablate", "--grid", "grid/grid.gin", "--dry-run", env=SAFE))  # its modules are named in it
    left = fine(dqlab(*grid, "--dry-run", env=SAFE))
    assert "Nothing is left to train" in left, "the same cells, with and without --tasks"
    refused(dqlab(*grid, "--tasks", "rail-own-Rial-v0", "--dry-run", env=SAFE), name)
    compared = fine(dqlab("compare", "run", "else/run", "grid", env=SAFE))
    assert f"{name}: returns (not D4RL; returns, no scores)" in compared
    assert "damaged" not in compared


def test_wrong_folders_are_said(tmp_path: Path, in_process: Run) -> None:
    (tmp_path / "wrong.gin").write_text("import_path.folders = 'mine'\n")
    refused(in_process("train", "--gin", "wrong.gin"), "wrong.gin:1: import_path.folders must be a tuple of folders")


def test_one_reference_score_is_no_scale() -> None:
    for given, said in (({"min_score": 1.0}, "None"), ({"max_score": float("nan"), "min_score": 0.0}, "nan")):
        with pytest.raises(ConfigError, match=f"gymnasium_task.max_score is {said}. Set two returns"):
            gymnasium_task("Pendulum-v1", **given)


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_values_beyond_any_return_are_told_of(scale: float, tmp_path: Path, in_process: Run) -> None:
    """Fresh critics say some hundredths of anything; rewards of 1e-7 add up to a thousandth of that."""
    write_module(tmp_path, -1.0, 1.0)
    rows = dict(np.load(data := write_data(tmp_path, -1.0, 1.0)))
    np.savez(data, **{**rows, "rewards": rows["rewards"] * np.float32(scale)})
    (tmp_path / "rail.gin").write_text(task_gin(data, *SHORT))
    done = in_process("train", "--gin", "rail.gin", "--seeds", "0", "1", "--out", "run")
    fine(done)
    assert done.stderr.count("no return is beyond") == (0 if scale == 1.0 else 2), done.stderr
