"""Data sources in order, the sets that ship with dqlab, and the 2D bandit's data and environment."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dqlab.config import gin_files
from dqlab.data import Transitions, load_dataset
from dqlab.data.formats.base import digest_of_columns, format_of, signs_of_another_task
from dqlab.data.sources import cache_path, embedded, embedded_sets, make_rows
from dqlab.envs import make_env, tasks
from dqlab.envs.bandit import BANDIT, BEST, MODES, modes_of
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import D4RL, Task
from dqlab.errors import ConfigError, DataError

WALKER, HOPPER = (tasks.get(f"{robot}-medium-expert-v2") for robot in ("walker2d", "hopper"))
D4RLS = ("d4rl_cache", "d4rl_download")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(D4RL, "root", "http://127.0.0.1:9/")
    return tmp_path / "cache"


def test_the_cache_that_d4rl_users_have_comes_first_and_the_embedded_set_last(
    cache: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dqlab.data.sources.SHARE", 0)  # 60 rows of two million
    known = load_dataset(WALKER, (*D4RLS, "embedded")).provenance
    assert (known.source, known.caveat) == ("embedded", "not D4RL")
    shutil.copy(path := d4rl_file(), cache / "walker2d_medium_expert-v2.hdf5")
    known = load_dataset(WALKER, (*D4RLS, "embedded")).provenance
    assert (known.source, known.is_d4rl, known.caveat) == ("d4rl_cache", True, "")
    assert (known.rows, known.transitions) == (60, 56)
    assert load_dataset(WALKER, f"file:{path}").provenance.caveat == "not D4RL"
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert cache_path(WALKER) == Path.home() / ".d4rl" / "datasets" / "walker2d_medium_expert-v2.hdf5"


def test_where_no_source_has_it() -> None:
    """Every reason is given; whose data a source makes; an unknown one's nearest."""
    for task, sources, said in (
        (WALKER, D4RLS, r"d4rl_cache: .* does not exist; d4rl_download: http://127.0.0.1:9/.*reached"),
        (WALKER, ("file:nowhere.hdf5",), "no dataset at 'nowhere"),
        (HOPPER, ("bandit",), r"No dataset for hopper-medium-expert-v2. bandit: it makes data for bandit-2d only"),
        (BANDIT, D4RLS, r"d4rl_cache: .*d4rl_download: bandit-2d is not a task of D4RL's. Name a file"),
    ):
        with pytest.raises(DataError, match=said):
            load_dataset(task, sources)
    with pytest.raises(ConfigError, match="'d4rl_cache'"):
        load_dataset(WALKER, ("d4rl_cash",))


@pytest.mark.parametrize("task", [WALKER, HOPPER], ids=lambda task: task.robot)
def test_embedded_set_is_what_it_says(task: Task) -> None:
    """25 medium episodes (score 40 to 70), 25 expert ones (85 or more), with provenance inside; both are small."""
    data = load_dataset(task, ("embedded",))
    with h5py.File(data.provenance.path) as file:
        names = ("actions", "rewards", "terminals", "timeouts")
        actions, rewards, terminals, timeouts = (file[name][()] for name in names)
        notes = {name: file[f"metadata/{name}"][()].decode() for name in file["metadata"]}
    ends = np.flatnonzero(terminals | timeouts)
    assert ends[-1] == len(rewards) - 1
    assert not (terminals & timeouts).any()
    assert float(abs(actions).max()) <= 1.0
    returns = np.diff(rewards.cumsum(dtype=float)[ends], prepend=0.0)
    assert len(returns) == data.provenance.episodes == 50
    assert 40 <= task.score(returns[:25].mean()) <= 70
    assert task.score(returns[25:].mean()) >= 85
    assert "not D4RL" in notes["provenance"]
    assert "mujoco210" in notes["environment"]
    assert "PPO checkpoint" in notes["medium_policy"] + notes["expert_policy"]
    assert "/" not in notes["behaviour"]
    assert sum(path.stat().st_size for path in embedded(task).path.parent.iterdir()) <= 8_000_000


def bandit(*bindings: str) -> Transitions:
    gin_files.load_gin([], ["load_dataset.sources=('bandit',)", *bindings])
    return load_dataset(BANDIT)


def test_data_of_another_robot_are_refused_where_widths_are_the_same(tmp_path: Path) -> None:
    """Walker2d's are as wide as HalfCheetah's; the metadata say whose they are. What is the user's own is taken."""
    path = embedded_sets()["walker2d-medium-expert-mini"]
    with pytest.raises(DataError, match="metadata say that it is of Walker2d, .*'s environment is HalfCheetah"):
        load_dataset(tasks.get("halfcheetah-medium-v2"), (f"file:{path}",))
    columns = format_of(str(path))[0].read(path)
    assert [*signs_of_another_task(columns, tasks.get("mujoco-halfcheetah-expert-v0"))]
    own = describe_environment("my_envs:HeavyWalker2d-v0", episode_limit=1000, sizes=(17, 6))
    for task in (own, WALKER, tasks.get("mujoco-walker2d-expert-v0")):
        assert not [*signs_of_another_task(columns, task)]
    other = replace(columns, metadata={"environment": "my_envs:HeavyWalker2d-v0 {}, physics its own"})
    assert not [*signs_of_another_task(other, tasks.get("halfcheetah-medium-v2"))]


def test_ten_thousand_terminal_transitions_of_four_equal_modes() -> None:
    """Means within 5 standard errors (0.05 / 50 and 0.5 / 50), standard deviations within 5%."""
    data = bandit()
    assert (data.state.shape, data.action.shape) == ((10_000, 1), (10_000, 2))
    assert not data.state.any()
    assert not data.next_state.any()
    assert bool((data.terminal == 1).all())
    modes = modes_of(data.action.numpy())
    assert np.bincount(modes + 1, minlength=5).tolist() == [0, 2500, 2500, 2500, 2500]
    wanted = {(-0.8, 0.8): 3.0, (-0.8, -0.8): 0.0, (0.8, 0.8): 1.5, (0.8, -0.8): 5.0}
    for index, mode in enumerate(MODES):
        actions, rewards = data.action[modes == index], data.reward[modes == index]
        assert actions.mean(0).tolist() == pytest.approx(mode.centre, abs=0.005)
        assert actions.std(0).tolist() == pytest.approx([0.05, 0.05], rel=0.05)
        assert float(rewards.mean()) == pytest.approx(wanted[mode.centre], abs=0.05)
        assert float(rewards.std()) == pytest.approx(0.5, rel=0.05)
    known = data.provenance
    assert (known.source, known.path, known.skipped, known.is_d4rl) == ("bandit", "", (), False)
    assert (known.episodes, known.transitions, known.caveat) == (10_000, 10_000, "synthetic")
    assert known.return_mean == pytest.approx(2.375, abs=0.1)  # the four modes' mean
    clipped = np.abs(make_rows(0, 400_000).actions)  # one draw in 30,000 lies beyond 1, four deviations from its mode
    assert float(clipped.max()) == 1.0
    assert 5 <= int((clipped == 1.0).sum()) <= 100


def test_the_seed_makes_the_data_and_the_digest_tells_them_apart() -> None:
    first, again, other = bandit(), bandit(), bandit("bandit.seed=1")
    assert first.action.equal(again.action)
    assert first.reward.equal(again.reward)
    assert not first.action.equal(other.action)
    digests = [data.provenance.digest for data in (first, again, other, bandit("bandit.transitions=400"))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        rows = make_rows(0, 8)
        getattr(rows, name)[2] = 1 - getattr(rows, name)[2]
        assert digest_of_columns(rows) != digest_of_columns(make_rows(0, 8)), name
    for count in (0, -4, 10_001):
        with pytest.raises(ConfigError, match=r"bandit.transitions must be a positive multiple of 4, not"):
            bandit(f"bandit.transitions={count}")


def rewards(action: tuple[float, ...], count: int = 400) -> np.ndarray:
    env, got = make_env(BANDIT), []
    for index in range(count):
        env.reset(seed=0 if index == 0 else None)
        state, reward, terminated, _, _ = env.step(np.array(action, dtype=np.float32))
        assert (terminated, state.tolist()) == (True, [0.0])
        got.append(reward)
    return np.array(got)


def test_what_actions_are_worth_in_the_environment() -> None:
    """A mode pays what its data pay, a quarter far; elsewhere nothing is paid; rewards repeat from a seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(BANDIT.env_id).unwrapped)
    for mode in MODES:
        got = rewards(mode.centre)
        assert float(got.mean()) == pytest.approx(mode.reward, abs=0.1)  # 4 standard errors
        assert float(got.std()) == pytest.approx(0.5, rel=0.15)
    assert MODES[BEST].name == "lower right"
    for action in ((0.0, 0.0), (0.8, -0.54), (1.0, -1.0), (-1.0, 0.5)):
        assert not rewards(action, 3).any()
    assert np.array_equal(rewards((0.8, 0.8), 5), rewards((0.8, 0.8), 5))
    assert [BANDIT.score(value) for value in (0.0, 2.5, 5.0)] == [0.0, 50.0, 100.0]
