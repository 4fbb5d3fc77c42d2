"""`dqlab new-task`: from a user's file and module to a gin file that trains, with what was measured on the way."""

from __future__ import annotations

import json
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


def change_data(folder: Path, **arrays: Any) -> None:
    """rail.npz with other columns."""
    np.savez(write_data(folder), **{**np.load(folder / "rail.npz"), **arrays})


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
    names = ("state_dim", "action_dim", "episode_limit", "min_score", "max_score")
    *sizes, low, high = (known[f"gymnasium_task.{name}"] for name in names)
    assert sizes == [2, 1, 20]
    returns = np.load(tmp_path / "rail.npz")["rewards"].astype(float).reshape(-1, 20).sum(1)
    assert high == pytest.approx(returns.max())
    said = (
        f"random actions return {low:.6g} (20 episodes); the data {returns.mean():.6g} in the mean, {high:.6g} at best"
    )
    assert said in done.stdout
    short = ["--set", *TINY[1:], "Training.steps=4", "Training.eval_every=2"]
    ran = dqlab("train", "--gin", "cfg/mine.gin", "--out", "run", *short, env=SAFE)
    assert ran.returncode == 0, ran.stderr


def test_random_actions_are_scored_as_measured_by_hand(tmp_path: Path, new_task: Any, in_process: Run) -> None:
    """In a rail whose force is 0 whatever is done, the return depends on the start alone."""
    write_module(tmp_path, 0.0, 0.001)
    write_data(tmp_path, 0.0, 0.001)
    assert new_task().returncode == 0
    total = 0.0
    for seed in range(20):
        position, speed = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).uniform(-1.0, 1.0, 2)
        total -= sum((position + 0.1 * speed * step) ** 2 for step in range(20))
    known = written(tmp_path / "rail.gin")
    assert known["gymnasium_task.min_score"] == pytest.approx(total / 20, rel=1e-2)
    middle = (known["gymnasium_task.min_score"] + known["gymnasium_task.max_score"]) / 2
    scored = json.loads(in_process("score", "rail.gin", str(middle), "--json").stdout)
    assert scored["scores"] == [pytest.approx(50.0)], "of the task that the gin file makes"
    verified = in_process("data", "verify", "rail.npz", "--task", "rail.gin")
    assert verified.returncode == 0, verified.stderr
    refused(in_process("data", "verify", "rail.npz", "--task", "none.gin"), "There is no gin file 'none.gin'")


WEAK = {"actions": np.linspace(-0.5, 0.9, 200, dtype=np.float32)[:, None]}
WIDE = {"observations": np.zeros((200, 3)), "next_observations": np.zeros((200, 3))}
REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    (WIDE, [], "3 wide, rail-own-Rail-v0's is 2"),
    ({"rewards": np.full(200, np.nan)}, [], "'rewards' has 200 NaN"),
    ({"actions": np.full((200, 1), 3.0)}, [], "outside of the environment's bounds, [-2, 2]"),
    (WEAK, [], "--action-bounds unit"),
    ({}, ["--action-bounds", "unit"], "outside of [-1, 1]: they reach from -2 to 2"),
    ({}, ["--env-id", "no_rail:own/Rail-v0"], "No module named 'no_rail'"),
    ({}, ["--env-kwargs", "{'friction': 1}"], "unexpected keyword argument 'friction'"),
    ({}, ["--env-kwargs", "[1"], "must be a dictionary, such as \"{'gravity': 9.8}\", not '[1'"),
    ({}, ["--episodes", "0"], "at least one episode"),
]


def test_what_does_not_fit_is_refused_in_a_line(tmp_path: Path, new_task: Any) -> None:
    for arrays, more, said in REFUSED:
        change_data(tmp_path, **arrays)
        refused(new_task(*more), said)
    assert not (tmp_path / "rail.gin").exists()


def test_doubt_is_settled_by_the_user_and_nothing_replaced(tmp_path: Path, new_task: Any) -> None:
    """Data that are no better than chance give no scale."""
    (tmp_path / "rail.gin").write_text("mine")
    change_data(tmp_path, **WEAK, rewards=np.full(200, -100.0))
    refused(new_task(), "rail.gin exists")
    assert (tmp_path / "rail.gin").read_text() == "mine"
    for rule in ("unit", "env"):
        done = new_task("--action-bounds", rule, "--force", "--episodes", "1")
        assert "none, for the data are no better than random actions" in done.stdout
        known = written(tmp_path / "rail.gin")
        assert (known["load_dataset.action_bounds"], known["gymnasium_task.env_id"]) == (rule, ENV_ID)
        assert not [name for name in known if name.endswith("_score")]


FAULTS = {
    "return self.state * np.nan, -": "random actions are NaN or infinite. Mend the environment",
    "raise OSError('no power')  # ": "raised OSError: no power",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_gives_nan_or_raises_is_refused_and_closed(fault: str, tmp_path: Path, new_task: Any) -> None:
    close = "    def close(self):\n        if hasattr(self, 'force'):\n            open('closed', 'w').close()\n\n"
    text = (tmp_path / "rail.py").read_text().replace("    def step(", f"{close}    def step(")
    text = text.replace("force = float", "force = self.force = float").replace("return self.state.copy(), -", fault)
    (tmp_path / "rail.py").write_text(text)
    refused(new_task(), FAULTS[fault])
    assert (tmp_path / "closed").exists()
    assert not (tmp_path / "rail.gin").exists()
