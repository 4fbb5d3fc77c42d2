"""OGBench's files: the same transitions as the library makes, where they lie, and how other sets are marked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.data import load_dataset
from dqlab.data.formats.base import format_of
from dqlab.data.formats.ogbench import OGBenchFormat
from dqlab.data.locate import resolve_dataset
from dqlab.data.sources import absolute_source, find_dataset
from dqlab.envs import tasks
from dqlab.envs.tasks import dataset_of
from dqlab.errors import ConfigError, DataError
from dqlab.tools.collect import behaviours
from dqlab.tools.collect.recipe import Collection

ROWS = 40
EPISODES = 3


ogbench = pytest.importorskip("ogbench")
pytest.importorskip("dm_control")

ROBOTS = ("scene-noisy-singletask-v0", "puzzle-3x3-play-singletask-task5-v0")
CUBE = tasks.get("cube-single-play-singletask-v0")
FILE = "cube-single-play-v0.npz"
FORMAT = OGBenchFormat()


def collect(folder: Path, **asked: Any) -> list[str]:
    gin_files.load_gin([], [f"Collection.{name}={value!r}" for name, value in asked.items()])
    return list(map(str, Collection().run(folder, log=lambda line: None)))


def collected(folder: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set of a task's in a folder, in OGBench's layout; its file."""
    monkeypatch.setattr(behaviours, "EPISODE_ROWS", ROWS)
    mixture = {f"oracle:{'play' if '-play-' in task else 'noisy'}": 1.0}
    (place,) = collect(folder, task=task, name=task, mixture=mixture, episodes=EPISODES, formats=("ogbench",))
    return Path(place)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of cube-single-play's."""
    with pytest.MonkeyPatch.context() as patch:
        return collected(tmp_path_factory.mktemp("played"), CUBE.name, patch)


@pytest.fixture
def folder(played: Path, tmp_path: Path) -> Path:
    """A folder with a copy of that set."""
    return Path(shutil.copytree(played.parent, tmp_path / "set"))


def assert_same(place: Path, task: str) -> None:
    """Transitions are those that ogbench makes; it wants a file for validation beside it."""
    shutil.copy(place, place.with_name(f"{place.stem}-val.npz"))
    env, wanted, _ = ogbench.make_env_and_datasets(task, dataset_path=str(place), disable_env_checker=True)
    env.close()
    found = load_dataset(tasks.get(task), f"ogbench:{place.parent}", action_bounds="as_is")
    names = ("observations", "actions", "rewards", "next_observations")
    for name, mine in zip(names, (found.state, found.action, found.reward, found.next_state), strict=True):
        np.testing.assert_array_equal(mine.numpy(), wanted[name], name)
    np.testing.assert_array_equal(1.0 - found.terminal.numpy(), wanted["masks"])
    assert found.provenance.episodes == int(wanted["terminals"].sum())


@pytest.mark.filterwarnings("ignore:.*precision lowered")
@pytest.mark.parametrize("name", ROBOTS)
def test_transitions_are_the_librarys(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(collected(tmp_path, name, monkeypatch), name)


@pytest.mark.parametrize("name", ["antmaze-medium-navigate-singletask-v0", "antsoccer-arena-stitch-singletask-v0"])
def test_transitions_of_mazes_are_the_librarys(name: str, tmp_path: Path) -> None:
    """Positions all over the maze, some of them at the goal, where an episode goes on with a mask of 0."""
    task, draw = tasks.get(name), np.random.default_rng(0)
    place = tmp_path / f"{dataset_of(name)}.npz"
    qpos = draw.uniform(-2, 22, (4000, 22)).astype(np.float32)
    observations, actions = draw.normal(size=(4000, task.state_dim)), draw.uniform(-1, 1, (4000, 8))
    rows = {"observations": observations.astype(np.float32), "actions": actions.astype(np.float32)}
    np.savez(place, **rows, qpos=qpos, terminals=np.arange(4000) % 500 == 499)
    assert_same(place, name)
    masks = np.asarray(FORMAT.read(tmp_path / name).masks)
    assert 0 < (masks == 0).sum() < 100


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_what_is_solved_ends_no_episode(folder: Path) -> None:
    assert_same(folder / FILE, CUBE.name)
    columns = FORMAT.read(folder / CUBE.name)
    assert len(columns) == EPISODES * ROWS
    assert not columns.terminals.any()
    assert np.flatnonzero(np.asarray(columns.timeouts)).tolist() == [ROWS - 1, 2 * ROWS - 1, 3 * ROWS - 1]
    assert np.array_equal(np.asarray(columns.masks) == 0, columns.rewards == 0)


def test_oracles_play_again_what_they_played(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever numpy's global generator has done; and they move the cube."""
    np.random.seed(9)
    again = collected(tmp_path / "again", CUBE.name, monkeypatch)
    with np.load(folder / FILE) as one, np.load(again) as other:
        for name in ("observations", "actions", "qpos", "qvel", "terminals"):
            np.testing.assert_array_equal(one[name], other[name])
        assert not np.array_equal(one["actions"][:ROWS], one["actions"][ROWS : 2 * ROWS])
        assert np.abs(one["qpos"][:ROWS, 14:17] - one["qpos"][0, 14:17]).max() > 0.01


def test_where_no_oracle_plays(tmp_path: Path) -> None:
    """And a set whose name is no task's: that shows before it is played."""
    there_are = "there are oracle:play and oracle:noisy, on OGBench's tasks of cube, scene"
    for task, kind, form, said in (
        (CUBE.name, "fast", "npz", there_are),
        ("antmaze-large-navigate-singletask-v0", "play", "npz", there_are),
        (CUBE.name, "play", "ogbench", "'ogbench-cube-single-oracle-play' is no task of OGBench's"),
        (CUBE.name, "play", "d4rl", "'oracle:play' has no rewards of its own: set Collection.formats=.'ogbench'"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            collect(tmp_path, task=task, mixture={f"oracle:{kind}": 1.0}, episodes=9, formats=(form,))


def test_episodes_that_end_when_solved_are_not_written(folder: Path) -> None:
    """The state that solves the task would be missing: in OGBench's files an episode's last row only ends it."""
    columns = FORMAT.read(folder / CUBE.name)
    solved = replace(
        columns, terminals=np.arange(len(columns)) == 3, extras={"infos/qpos": np.zeros((len(columns), 3))}
    )
    with pytest.raises(DataError, match="has episodes that end where the task is solved"):
        FORMAT.write(folder / CUBE.name, solved)


def test_sets_of_dqlabs_are_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"ogbench:{folder}"
    known = load_dataset(CUBE, (source,)).provenance
    assert (known.source, known.caveat, known.is_d4rl) == ("ogbench", "not OGBench's data", False)
    with np.load(folder / FILE) as stored:
        arrays = {name: stored[name] for name in stored if name != "metadata"}
    np.savez(folder / FILE, **arrays)
    assert find_dataset(CUBE, (source,)).caveat == "not OGBench's data"  # too few rows
    assert find_dataset(replace(CUBE, rows=EPISODES * ROWS), (source,)).caveat == ""
    monkeypatch.chdir(folder)
    assert find_dataset(CUBE, ("ogbench:.",)).place == folder / FILE
    monkeypatch.chdir(folder.parent)
    assert absolute_source("ogbench:set") == f"ogbench:{folder.resolve()}"


def test_a_set_in_several_files(folder: Path, tmp_path: Path) -> None:
    split, names = tmp_path / "split", ("observations", "actions", "terminals", "qpos")
    split.mkdir()
    whole = FORMAT.read(folder / CUBE.name)
    with np.load(folder / FILE) as stored:
        for number, rows in enumerate((slice(0, ROWS), slice(ROWS, None))):
            np.savez(split / f"cube-single-play-v0-{number:03d}.npz", **{name: stored[name][rows] for name in names})
    shutil.copy(folder / FILE, split / "cube-single-play-v0-000-val.npz")
    found = find_dataset(CUBE, f"ogbench:{split}")
    assert found.caveat == "2 files of a larger set"
    parts, digest = found.read(CUBE), found.digest()
    for name in ("observations", "rewards", "masks", "timeouts"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    shutil.copy(split / "cube-single-play-v0-000.npz", split / "cube-single-play-v0-002.npz")
    assert find_dataset(CUBE, f"ogbench:{split}").digest() != digest


def test_what_is_wrong_with_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / FILE
    with monkeypatch.context() as patch:
        patch.setattr("dqlab.data.formats.base.available_memory", lambda: 30_000)
        with pytest.raises(DataError, match="cannot be read: there is not enough memory for what it claims to hold"):
            FORMAT.read(folder / CUBE.name)
    with pytest.raises(DataError, match="'cube-singel-play-singletask-v0' is no task of OGBench's.*cube-single-play"):
        FORMAT.read(folder / "cube-singel-play-singletask-v0")
    with pytest.raises(DataError, match="hopper-medium-v2 is not a task of OGBench's"):
        find_dataset(tasks.get("hopper-medium-v2"), "ogbench")
    with np.load(place) as stored:
        arrays = {name: stored[name] for name in ("observations", "actions", "terminals", "qpos")}
    for changed, task, message in (
        ({}, "puzzle-3x3-play-singletask-v0", "'button_states'"),
        ({"qpos": None}, CUBE.name, "has no 'qpos'"),
        ({"qpos": arrays["qpos"][:-1]}, CUBE.name, "119 qpos"),
        ({"qpos": arrays["qpos"][:, :3]}, CUBE.name, "ogbench cannot make rewards of it"),
    ):
        kept = {name: value for name, value in {**arrays, **changed}.items() if value is not None}
        np.savez(folder / f"{dataset_of(task)}.npz", **kept)
        with pytest.raises(DataError, match=message):
            FORMAT.read(folder / task)
    place.write_bytes(place.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        FORMAT.read(folder / CUBE.name)


def test_commands_know_it_by_its_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        f"ogbench:{folder}",
        str(folder),
        str(folder / "cube-single-play-v0.npz"),
        f"ogbench:{folder}/{CUBE.name}",
    ):
        assert main(["data", "verify", name, "--task", CUBE.name]) == 0
        assert f"{name}: sound: " in capsys.readouterr().out
    monkeypatch.chdir(folder)
    for name in (".", "ogbench:.", "cube-single-play-v0.npz"):
        assert resolve_dataset(name, CUBE.name).place == folder / "cube-single-play-v0.npz"
    assert resolve_dataset(f"ogbench:{CUBE.name}", CUBE.name).place == tmp_path / "home" / ".ogbench" / "data" / FILE
    assert main(["data", "info", CUBE.name]) == 2
    assert "`dqlab data download cube-single-play-singletask-v0` fetches it" in capsys.readouterr().err
    (tmp_path / "home" / ".ogbench").mkdir(parents=True)
    folder.rename(tmp_path / "home" / ".ogbench" / "data")
    for command in (["info", CUBE.name], ["verify", "cube-single-play-singletask-task5-v0"], ["list"]):
        assert main(["data", *command]) == 0
        assert "cube-single-play" in capsys.readouterr().out
    assert main(["data", "download", CUBE.name]) == 0
    assert "already there: " in capsys.readouterr().out
    assert format_of(f"ogbench:{CUBE.name}")[1] == Path(CUBE.name)
