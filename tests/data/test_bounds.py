"""Actions outside of [-1, 1]: never trained on unless the user says how they are meant."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import TINY, Done, Run
from made_own import ENV_ID, task_gin, write_data, write_module

from dqlab.ablation.planning import ConfigResolver, make_plan
from dqlab.config.identity import is_as_before
from dqlab.data import Transitions, load_dataset
from dqlab.data.formats.base import format_of
from dqlab.envs import make_env, tasks
from dqlab.envs.custom import describe_environment, gymnasium_task
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, message_of

BOTH = ("load_dataset.action_bounds='env'", "'as_is'")
WALKER = tasks.get("walker2d-medium-v2")


def forget_rail() -> None:
    sys.modules.pop("rail", None)
    gymnasium.registry.pop("own/Rail-v0", None)


@pytest.fixture
def rail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Task]]:
    """The task of an environment whose forces lie in given bounds."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it does not see what is written anew within a second

    def make(low: float = -2.0, high: float = 2.0) -> Task:
        write_module(tmp_path, low, high)
        forget_rail()
        return tasks.get(gymnasium_task(ENV_ID, -10.0, 0.0))

    yield make
    forget_rail()


def load(task: Task, path: Path, rule: str = "unit") -> Transitions:
    return load_dataset(task, (f"file:{path}",), action_bounds=rule)


def noted(path: Path, stored: Any) -> Path:
    """The same rows, with what they say of their bounds."""
    notes = {"action_bounds": stored if isinstance(stored, str) else json.dumps({"stored": stored})}
    np.savez(path.with_name("noted.npz"), **np.load(path), metadata=[json.dumps(notes)])
    return path.with_name("noted.npz")


def recorded(path: Path, name: str = "actions") -> Any:
    return np.load(path)[name]


REFUSED: list[tuple[tuple[float, float], tuple[float, float], Any, str, str]] = [
    ((-2, 2), (-2, 2), None, "unit", r"lie outside of \[-1, 1\]: they reach from -2 to 2\..* bounds are \[-2, 2\]"),
    ((-0.4, 0.4), (-0.4, 0.4), None, "unit", r"within the environment's own bounds, \[-0.4, 0.4\]"),
    ((0, 1), (0, 1), None, "unit", r"within the environment's own bounds, \[0, 1\]"),
    ((-2, 2), (-0.3, 0.3), [[-2], [2]], "unit", r"recorded in \[-2, 2\], as the dataset says, not in \[-1, 1\]"),
    ((-2, 2), (-0.3, 0.3), [-1, 1], "env", r"recorded in \[-1, 1\], as the dataset says"),
    ((-1, 1), (-2, 2), None, "env", r"outside of the environment's bounds, \[-1, 1\]: .* -2 to 2.*row 1: repair"),
]
"""The environment's bounds, those of the data, what these say of theirs, the rule, and what is said."""


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[-1])
def test_what_may_be_meant_otherwise_is_refused_and_both_ways_out_are_named(
    case: Any, tmp_path: Path, rail: Callable[..., Task]
) -> None:
    own, data, stored, rule, words = case
    task, path = rail(*own), noted(write_data(tmp_path, *data), stored)
    with pytest.raises(DataError, match=words) as caught:
        load(task, path, rule)
    said = message_of(caught.value)
    assert "\n" not in said
    assert str(path) in said
    assert rule == "env" or all(way in said for way in BOTH)


def test_shares_are_taken_as_they_are(tmp_path: Path, rail: Callable[..., Task]) -> None:
    """Those that reach beyond narrow bounds, or say that they are shares; what else a set says is passed over."""
    narrow, path = rail(-0.4, 0.4), write_data(tmp_path, -1.0, 1.0)
    shares = load(narrow, path)
    np.testing.assert_array_equal(shares.action.numpy(), recorded(path))
    assert shares.provenance.actions == "actions taken as shares of [-0.4, 0.4]"
    weak = write_data(tmp_path, -0.3, 0.3)
    assert len(load(narrow, noted(weak, [-1.0, 1.0]))) == 200
    wide = rail()  # the environment's new bounds are those of `narrow`, too
    for odd in ("{", "[]", '{"stored": 3}', '{"stored": [[[1]], [[2]]]}', '{"stored": [1e999, "a"]}', "null"):
        assert len(load(wide, noted(weak, odd))) == 200
    with pytest.raises(ConfigError, match=r"load_dataset.action_bounds cannot be 'envs'. Did you mean 'env'"):
        load(wide, weak, "envs")


def test_rounding_is_no_reason(d4rl_file: Callable[..., Path]) -> None:
    """Exactly +-1 and what float32 makes of it are as they were, to the last bit."""
    actions = np.ones((60, 6), dtype=np.float32)
    actions[::2] = -np.nextafter(np.float32(1.0), np.float32(2.0))
    actions[5] = 1.000005
    found = load(WALKER, d4rl_file(actions=actions, timeouts=np.zeros(60, dtype=bool)))
    np.testing.assert_array_equal(found.action.numpy(), actions[:-1])


@pytest.mark.parametrize(("low", "high"), [(-0.4, 0.4), (300.0, 500.0)])
def test_rescaled_actions_do_in_the_environment_what_was_recorded(
    low: float, high: float, tmp_path: Path, rail: Callable[..., Task]
) -> None:
    task, path = rail(low, high), write_data(tmp_path, low, high)
    found, plain = load(task, path, "env"), load(task, path, "as_is")
    assert found.action.abs().max() == 1.0
    np.testing.assert_allclose(found.action.numpy() * (high - low) / 2 + (high + low) / 2, recorded(path), rtol=1e-6)
    assert (*found.provenance.action_low, *found.provenance.action_high) == pytest.approx((low, high))
    np.testing.assert_array_equal(plain.action.numpy(), recorded(path))
    assert (plain.provenance.action_low, plain.provenance.actions) == ((), "actions as they are")
    env = make_env(task)
    env.reset(seed=0)
    for row in (0, 7, 33):
        env.unwrapped.state = recorded(path, "observations")[row]
        reward = env.step(found.action[row].numpy())[1]
        assert reward == pytest.approx(float(recorded(path, "rewards")[row]), rel=1e-4)


def test_training_says_so(tmp_path: Path, rail: Callable[..., Task], in_process: Run) -> None:
    rail()

    def train(*more: str) -> Done:
        text = task_gin(write_data(tmp_path), *TINY[1:], "Training.steps=6", "Training.eval_every=3")
        (tmp_path / "own.gin").write_text("include 'gin/base/diffusion_ql.gin'\n" + text)
        forget_rail()
        return in_process("train", "--gin", "own.gin", "--out", "run", *more)

    done = train()
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert all(way in done.stderr for way in BOTH), done.stderr
    assert not (tmp_path / "run" / "config.gin").exists()
    done = train("--set", "load_dataset.action_bounds='env'")
    assert done.returncode == 0, done.stderr
    assert "actions rescaled from [-2, 2]" in done.stdout
    assert "load_dataset.action_bounds = 'env'" in (tmp_path / "run" / "config.gin").read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["action_high"] == [2.0]


def test_minari_says_in_which_bounds_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pendulum's own torques, all of them weak: the set's action space tells that they are not shares."""
    made = pytest.importorskip("made_minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = gymnasium.make("Pendulum-v1", max_episode_steps=5)
    buffer = made.roll_out(env, 0)
    buffer.actions[:] = [0.2 * action for action in buffer.actions]
    made.create("own/weak-v0", [buffer], env=env)
    task, source = describe_environment("Pendulum-v1", episode_limit=5), "minari:own/weak-v0"
    with pytest.raises(DataError, match=r"minari:own/weak-v0: actions are recorded in \[-2, 2\]"):
        load_dataset(task, source)
    found = load_dataset(task, source, action_bounds="env")
    form, path = format_of(source)
    np.testing.assert_allclose(2.0 * found.action.numpy(), form.read(path).actions, rtol=1e-6)


def test_the_rule_is_part_of_what_a_cell_is(tmp_path: Path) -> None:
    """Cells that were trained before there was a choice keep their ids: they ran as `unit` does."""
    path = tmp_path / "grid.gin"
    path.write_text(
        "include 'gin/quickstart.gin'\nGrid.axes = {'eta': {'DiffusionQL.eta': (1.0,)}}\nGrid.seeds = (0,)\n"
    )
    chosen = [[], *([f"load_dataset.action_bounds={rule!r}"] for rule in ("unit", "env", "as_is"))]
    ids = [make_plan(ConfigResolver([path], rule)).cells[0].id for rule in chosen]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert is_as_before("data.load_dataset.action_bounds", "unit"), "ids of older cells stay"
