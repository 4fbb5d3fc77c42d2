"""Data sources in order, and the sets that ship with dqlab."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from dqlab.data import load_dataset
from dqlab.data.sources import cache_path, embedded
from dqlab.envs import tasks
from dqlab.envs.tasks import D4RL
from dqlab.errors import ConfigError, DataError

WALKER = tasks.get("walker2d-medium-expert-v2")
SETS = {"walker2d": WALKER, "hopper": tasks.get("hopper-medium-expert-v2")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(D4RL, "root", "http://127.0.0.1:9/")
    return tmp_path / "cache"


def test_the_cache_that_d4rl_users_have_comes_first(
    cache: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dqlab.data.formats.hdf5.SHARE", 0)  # 60 rows of two million
    cache.mkdir()
    shutil.copy(d4rl_file(), cache / "walker2d_medium_expert-v2.hdf5")
    data = load_dataset(WALKER, ("d4rl_cache", "d4rl_download", "embedded"))
    assert data.provenance.source == "d4rl_cache"
    assert data.provenance.is_d4rl
    assert data.provenance.caveat == ""
    assert (data.provenance.rows, data.provenance.transitions) == (60, 56)


def test_falling_back_to_the_embedded_set_is_marked() -> None:
    provenance = load_dataset(WALKER, ("d4rl_cache", "d4rl_download", "embedded")).provenance
    assert provenance.source == "embedded"
    assert provenance.caveat == "not D4RL"


def test_without_a_fallback_every_reason_is_given() -> None:
    with pytest.raises(DataError, match=r"d4rl_cache: .* does not exist; d4rl_download: http://127.0.0.1:9/.*reached"):
        load_dataset(WALKER, ("d4rl_cache", "d4rl_download"))


def test_a_file_of_ones_own(d4rl_file: Callable[..., Path]) -> None:
    assert load_dataset(WALKER, (f"file:{d4rl_file()}",)).provenance.caveat == "not D4RL"
    with pytest.raises(DataError, match="no dataset at 'nowhere"):
        load_dataset(WALKER, ("file:nowhere.hdf5",))


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'d4rl_cache'"):
        load_dataset(WALKER, ("d4rl_cash",))


def test_default_cache_is_d4rls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert cache_path(WALKER) == Path.home() / ".d4rl" / "datasets" / "walker2d_medium_expert-v2.hdf5"


def test_embedded_sets_together_stay_small() -> None:
    folder = embedded(WALKER).path.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


@pytest.mark.parametrize("robot", SETS)
def test_embedded_set_is_what_it_says(robot: str) -> None:
    """25 medium episodes (score 40 to 70), 25 expert ones (85 or more), with provenance inside."""
    task = SETS[robot]
    data = load_dataset(task, ("embedded",))
    with h5py.File(data.provenance.path) as file:
        ends = (file["terminals"][()] | file["timeouts"][()]).nonzero()[0]
        totals = file["rewards"][()].cumsum(dtype=float)[ends]
        assert ends[-1] == len(file["rewards"]) - 1
        assert not (file["terminals"][()] & file["timeouts"][()]).any()
        notes = {name: file[f"metadata/{name}"][()].decode() for name in file["metadata"]}
        assert float(abs(file["actions"][()]).max()) <= 1.0
    returns = [later - earlier for earlier, later in zip([0.0, *totals], totals, strict=False)]
    medium, expert = returns[:25], returns[25:]
    assert len(returns) == data.provenance.episodes == 50
    assert 40 <= task.score(sum(medium) / 25) <= 70
    assert task.score(sum(expert) / 25) >= 85
    assert "not D4RL" in notes["provenance"]
    assert "mujoco210" in notes["environment"]
    assert "PPO checkpoint" in notes["medium_policy"] + notes["expert_policy"]
    assert "/" not in notes["behaviour"]
