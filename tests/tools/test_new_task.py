"""`dqlab new-task`: from a user's file and module to a gin file that trains, with what was measured on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import TINY, Done, Run, refused
from made_own import ENV_ID, write_data, write_module

from dqlab.config.gin_files import parse_bindings

SAFE = {"PYTHONSAFEPATH": "1"}
"""As the installed command: Python itself does not look for modules in the current folder."""


@pytest.fixture
def new_task(tmp_path: Path, in_process: Run) -> Iterator[Callable[..., Done]]:
    """The command on what lies in an empty folder: the module, and whatever a test puts there as rail.npz."""
    write_module(tmp_path)
    write_data(tmp_path)
    before = list(sys.path)
    yield lambda *more: in_process("new-task", "rail.npz", "--env-id", ENV_ID, *more)
    sys.path[:] = before
    sys.modules.pop("rail", None)
    gymnasium.registry.pop("own/Rail-v0", None)


def written(path: Path) -> dict[str, Any]:
    return parse_bindings(path.read_text())


def changed(folder: Path, **arrays: Any) -> None:
    """rail.npz with other columns."""
    np.savez(folder / "rail.npz", **{**np.load(folder / "rail.npz"), **arrays})


def test_what_it_writes_trains(tmp_path: Path, dqlab: Run) -> None:
    write_module(tmp_path)
    write_data(tmp_path)
    (tmp_path / "cfg").mkdir()
    done = dqlab("new-task", "rail.npz", "--env-id", ENV_ID, "--out", "cfg/mine.gin", env=SAFE)
    assert done.returncode == 0, done.stderr
    known = written(tmp_path / "cfg" / "mine.gin")
    assert known["load_dataset.action_bounds"] == "env"
    assert known["load_dataset.sources"] == (f"file:{tmp_path}/rail.npz",)
    assert known["import_path.folders"] == (str(tmp_path),)  # the gin file lies elsewhere
    sizes = [known[f"gymnasium_task.{name}"] for name in ("state_dim", "action_dim", "episode_limit")]
    assert sizes == [2, 1, 20]
    rewards = np.load(tmp_path / "rail.npz")["rewards"].astype(float).reshape(-1, 20).sum(1)
    assert known["gymnasium_task.max_score"] == pytest.approx(rewards.max())
    assert known["gymnasium_task.min_score"] < rewards.mean()
    for figure in (known["gymnasium_task.min_score"], rewards.mean(), rewards.max()):
        assert f"{figure:.6g}" in done.stdout
    assert f"random actions return {known['gymnasium_task.min_score']:.6g} (20 episodes)" in done.stdout
    short = ["--set", *TINY[1:], "Training.steps=4", "Training.eval_every=2"]
    ran = dqlab("train", "--gin", "cfg/mine.gin", "--out", "run", *short, env=SAFE)
    assert ran.returncode == 0, ran.stderr
    (tmp_path / "cfg" / "grid.gin").write_text(
        "include 'mine.gin'\nGrid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}\n"
    )
    grid = dqlab("ablate", "--grid", "cfg/grid.gin", "--out", "grid", "--seeds", "0", *short, env=SAFE)
    assert grid.returncode == 0, grid.stderr
    compared = dqlab("compare", "run", "grid", env=SAFE)
    assert (compared.returncode, "damaged" in compared.stdout) == (0, False)


def test_random_actions_are_scored_as_measured_by_hand(tmp_path: Path, new_task: Any) -> None:
    """In a rail whose force is 0 whatever is done, the return depends on the start alone."""
    write_module(tmp_path, 0.0, 0.001)
    write_data(tmp_path, 0.0, 0.001)
    assert new_task().returncode == 0
    found = []
    for seed in range(20):
        position, speed = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).uniform(-1.0, 1.0, 2)
        total = 0.0
        for _ in range(20):
            total -= position**2
            position += 0.1 * speed
        found.append(total)
    assert written(tmp_path / "rail.gin")["gymnasium_task.min_score"] == pytest.approx(np.mean(found), rel=1e-2)


def test_nothing_is_replaced(tmp_path: Path, new_task: Any) -> None:
    (tmp_path / "rail.gin").write_text("mine")
    refused(new_task(), "rail.gin exists")
    assert (tmp_path / "rail.gin").read_text() == "mine"
    assert new_task("--force").returncode == 0
    assert written(tmp_path / "rail.gin")["gymnasium_task.env_id"] == ENV_ID


WEAK = {"actions": np.linspace(-0.5, 0.9, 200, dtype=np.float32)[:, None]}
REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "widths": (
        {"observations": np.zeros((200, 3)), "next_observations": np.zeros((200, 3))},
        [],
        "3 wide, the task's is 2",
    ),
    "NaN": ({"rewards": np.full(200, np.nan)}, [], "'rewards' has 200 NaN"),
    "beyond": ({"actions": np.full((200, 1), 3.0)}, [], "outside of the environment's bounds, [-2, 2]"),
    "in doubt": (WEAK, [], "--action-bounds unit"),
    "against": ({}, ["--action-bounds", "unit"], "outside of [-1, 1]: they reach from -2 to 2"),
    "module": ({}, ["--env-id", "no_rail:own/Rail-v0"], "No module named 'no_rail'"),
    "arguments": ({}, ["--env-kwargs", "{'friction': 1}"], "unexpected keyword argument 'friction'"),
    "no dictionary": ({}, ["--env-kwargs", "[1"], "must be a dictionary, such as \"{'gravity': 9.8}\", not '[1'"),
    "episodes": ({}, ["--episodes", "0"], "at least one episode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(case: str, tmp_path: Path, new_task: Any) -> None:
    arrays, more, said = REFUSED[case]
    changed(tmp_path, **arrays)
    refused(new_task(*more), said)
    assert not (tmp_path / "rail.gin").exists()


def test_doubt_is_settled_by_the_user(tmp_path: Path, new_task: Any) -> None:
    changed(tmp_path, **WEAK)
    for rule in ("unit", "env"):
        assert new_task("--action-bounds", rule, "--force", "--episodes", "1").returncode == 0
        assert written(tmp_path / "rail.gin")["load_dataset.action_bounds"] == rule


def test_data_no_better_than_chance_give_no_scale(tmp_path: Path, new_task: Any) -> None:
    changed(tmp_path, rewards=np.full(200, -100.0))
    done = new_task()
    assert "none, for the data are no better than random actions" in done.stdout
    assert not [name for name in written(tmp_path / "rail.gin") if name.endswith("_score")]


def test_an_environment_that_gives_nan_is_refused(tmp_path: Path, new_task: Any) -> None:
    module = tmp_path / "rail.py"
    module.write_text(module.read_text().replace("return self.state.copy(), -", "return self.state * np.nan, -"))
    refused(new_task(), "observations or rewards of random actions are NaN or infinite. Mend the environment")
    assert not (tmp_path / "rail.gin").exists()
