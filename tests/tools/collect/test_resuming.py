"""Killed at every file that appears, on a full disk, or with a damaged file: the same command continues."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_collections import collect

from dqlab.errors import DataError, DqlabError, RunError

pytest.importorskip("stable_baselines3")
WHOLE = (
    "Collection.mixture={'random': 0.25, 'replay': 0.25, 'medium': 0.5}",
    "Collection.transitions=600",
    "Collection.name='set'",
)
Started = multiprocessing.process.BaseProcess


def start(work: Callable[..., Any], *args: Any) -> Started:
    """A real process, forked, so that nothing is imported anew."""
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    return child


def files(folder: Path, half_written: bool) -> set[Path]:
    return {path for path in folder.rglob("*.*") if path.is_file() and (half_written or path.suffix != ".tmp")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    collect(folder, *WHOLE)
    return folder


def test_killed_at_every_file_it_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    kills = 0
    while True:
        writing = kills % 2 == 0  # every other time while a file is being written, so that it comes forward
        before, child = files(tmp_path, writing), start(collect, tmp_path, *WHOLE)
        while child.is_alive() and files(tmp_path, writing) <= before:
            time.sleep(0.001)
        child.kill()
        child.join()
        kills += 1
        if (tmp_path / "set.gin").exists():
            break
        assert kills < 60
    assert kills >= 8, "it was killed in training, in ranking, in rolling out and in writing"
    collect(tmp_path, *WHOLE)
    assert (tmp_path / "set.hdf5").read_bytes() == (whole / "set.hdf5").read_bytes()


FILES = ["step-000000128.zip", "step-000000128.pkl", "experience/step-000000128.npz"]


@pytest.mark.parametrize("which", FILES)
def test_a_damaged_file_is_named_and_made_anew(which: str, whole: Path) -> None:
    (path,) = (whole / "behaviour").glob(f"*/{which}")
    before = (whole / "set.hdf5").read_bytes()
    sound = path.read_bytes()
    middle = len(sound) // 2
    for damaged in (sound[:middle], sound[:middle] + bytes(64) + sound[middle + 64 :], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path.name} .*is damaged.*Delete it and run the same command again"):
            collect(whole, *WHOLE)
    path.unlink()
    collect(whole, *WHOLE)
    assert (whole / "set.hdf5").read_bytes() == before


def run_out_of_space(folder: Path, limit: int, *bindings: str) -> None:
    """Files cannot become larger than the limit: the system refuses the write, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        collect(folder, *bindings)
    except DqlabError as error:
        (folder / "said").write_text(str(error))
    os._exit(0)


@pytest.mark.parametrize(("limit", "at"), [(20_000, "behaviour"), (95_000, "episodes")])
def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(limit: int, at: str, tmp_path: Path) -> None:
    mixture = {"ppo" if at == "behaviour" else "random": 1.0}
    start(run_out_of_space, tmp_path, limit, f"Collection.mixture={mixture}", "Collection.transitions=5000").join()
    said = (tmp_path / "said").read_text()
    assert f"Cannot write {tmp_path / at}" in said
    assert "Free some space and run the same command again" in said
    assert not list(tmp_path.rglob("*.hdf5"))
    assert not list(tmp_path.rglob("*.tmp"))


def hold(folder: Path) -> None:
    from dqlab.tracking.run_folder import claim_folder

    with claim_folder(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_two_do_not_collect_into_one_folder(tmp_path: Path) -> None:
    child = start(hold, tmp_path)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(RunError, match="in use"):
        collect(tmp_path, "Collection.mixture={'random': 1.0}", "Collection.episodes=1")
    child.kill()
    child.join()
