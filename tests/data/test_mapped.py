"""Transitions mapped from the disk: the same as in memory, written once, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqlab.config import gin_files
from dqlab.data import arrays as data_arrays
from dqlab.data import load_dataset, transitions
from dqlab.data.arrays import TransitionOptions, map_transitions
from dqlab.data.formats.base import Columns
from dqlab.envs import tasks
from dqlab.errors import ConfigError, DataError
from dqlab.runs import Experiment
from dqlab.runs.build import build_pack, load_data
from dqlab.training.execution.modes import execution_modes
from dqlab.training.programs import Step

WALKER = tasks.get("walker2d-medium-expert-v2")
SOURCE = ("embedded",)
Small = ["MLPDenoiser.hidden_dim=16", "TwinCritic.hidden_dim=16", "Experiment.task='walker2d-medium-expert-v2'"]


def load(memory_map: str, folder: Path, standardise: bool = False) -> transitions.Transitions:
    return load_dataset(WALKER, SOURCE, "standardise", standardise, memory_map, str(folder))


@pytest.mark.parametrize("standardise", [False, True])
def test_the_same_to_the_last_bit(tmp_path: Path, standardise: bool) -> None:
    there, here = load("always", tmp_path, standardise), load("never", tmp_path, standardise)
    again = load("always", tmp_path, standardise)
    for name in here.fields._fields:
        assert torch.equal(getattr(there, name), getattr(here, name))
        assert torch.equal(getattr(again, name), getattr(here, name))
    assert there.provenance.mapped == again.provenance.mapped
    assert Path(there.provenance.mapped).parent == tmp_path
    assert there.provenance.as_dict() | {"mapped": ""} == here.provenance.as_dict()
    index = torch.randint(0, len(here), (2, 32))
    assert all(map(torch.equal, there.batch(index), here.batch(index)))


def trained(memory_map: str, folder: Path) -> torch.Tensor:
    choice = [f"load_dataset.memory_map='{memory_map}'", f"load_dataset.map_dir='{folder}'"]
    gin_files.load_gin([], [*Small, "load_dataset.sources=('embedded',)", *choice])
    experiment = Experiment()
    pack, data = build_pack(experiment), load_data(experiment)
    step = Step(pack, data, 16, execution_modes.get("eager")())
    for _ in range(3):
        step()
    return torch.cat([tensor.flatten() for tensor in pack.state.parameters.values()])


def test_training_is_the_same(tmp_path: Path) -> None:
    there, here = trained("always", tmp_path), trained("never", tmp_path)
    assert torch.equal(there, here)


def test_it_is_written_once_and_never_copied(tmp_path: Path) -> None:
    first = load("always", tmp_path)
    folder = Path(first.provenance.mapped)
    stamp = (folder / "state.f32").stat().st_mtime_ns
    again = load("always", tmp_path)
    assert (folder / "state.f32").stat().st_mtime_ns == stamp
    assert again.to("cpu", torch.float32).state.data_ptr() == again.state.data_ptr()
    assert str(folder / "state.f32") in Path("/proc/self/maps").read_text()
    assert load("always", tmp_path, True).provenance.mapped != str(folder)


def test_what_does_not_fit_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_arrays, "available_memory", lambda: 4_000_000)
    assert load("auto", tmp_path).provenance.mapped
    with pytest.raises(DataError, match=r"rows take .* MB of memory, 3.2 MB are free. Set load_dataset.memory_map"):
        load("never", tmp_path)
    monkeypatch.setattr(data_arrays, "available_memory", lambda: 100_000)
    with pytest.raises(DataError, match="Use a smaller dataset"):
        load("auto", tmp_path)
    monkeypatch.undo()
    assert not load("auto", tmp_path).provenance.mapped


def test_a_device_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("always", tmp_path)
    monkeypatch.setattr(transitions, "free_memory", lambda device: 1_000_000)
    with pytest.raises(DataError, match=r"takes .* MB as torch.float64, cpu has 1.0 MB free"):
        data.to("cpu", torch.float64)


def test_unknown_choices_name_the_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory_map cannot be 'sometimes'"):
        load("sometimes", tmp_path)


def test_a_damaged_folder_is_not_used(tmp_path: Path) -> None:
    folder = Path(load("always", tmp_path).provenance.mapped)
    with (folder / "action.f32").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"is damaged .* Delete it"):
        load("always", tmp_path)


def truncated(path: Path) -> None:
    path.write_bytes(b"")


def without(*keys: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in facts.items() if key not in keys}))

    return change


def no_object(path: Path) -> None:
    path.write_text("[]")


def with_shapes(shapes: Any) -> Callable[[Path], None]:
    return lambda path: with_facts(path, shapes=shapes)


def with_facts(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no returns": ("returns.f64", truncated),
    "no rewards": ("rewards.f32", truncated),
    "no states": ("state.f32", truncated),
    "no facts": ("facts.json", truncated),
    "no rows": ("facts.json", without("rows")),
    "no mean": ("facts.json", without("state_mean")),
    "a list of shapes": ("facts.json", with_shapes([])),
    "no shapes": ("facts.json", with_shapes({})),
    "another field": ("facts.json", with_shapes({"state": [1], "rows": [1]})),
    "rows that are none": ("facts.json", lambda path: with_facts(path, rows=None)),
    "a list of facts": ("facts.json", no_object),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_every_damage_is_one_message(tmp_path: Path, small: Columns, what: str) -> None:
    map_transitions(small, TransitionOptions(1000), tmp_path / "map")
    name, change = DAMAGE[what]
    change(tmp_path / "map" / name)
    with pytest.raises(DataError, match=r"map is damaged \(.+\). Delete it"):
        map_transitions(small, TransitionOptions(1000), tmp_path / "map")


@pytest.fixture
def small() -> Columns:
    values, flag = np.ones((40, 3), np.float32), np.arange(40) % 10 == 9
    return Columns(values, values, values[:, 0], flag, flag)


def test_all_files_are_on_the_disk_before_the_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Columns
) -> None:
    synced, sync = set(), os.fsync

    def seen(descriptor: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    map_transitions(small, TransitionOptions(1000), tmp_path / "map")
    assert synced >= {item.name for item in (tmp_path / "map").iterdir()}


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Columns) -> None:
    def refused(*about: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert map_transitions(small, TransitionOptions(1000), tmp_path / "map").rows == 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "t", str(folder)]).returncode != 0:
            pytest.skip("disks can't be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], check=folder.is_mount())


def test_too_small_a_disk_leaves_nothing(disk: Callable[[str], Path]) -> None:
    folder = disk("1m")
    with pytest.raises(
        DataError, match=r"Cannot write .*No space left on device. It takes .* MB: free some space, or set load_dataset"
    ):
        load("always", folder)
    assert not list(folder.iterdir())


def test_a_row_that_is_not_finite_leaves_nothing(tmp_path: Path, d4rl_file: Callable[..., Path]) -> None:
    actions = np.zeros((60, 6), dtype=np.float32)
    actions[41] = np.nan
    path = d4rl_file(actions=actions)
    with pytest.raises(DataError, match="'actions' has a NaN or infinite value in row 41"):
        load_dataset(WALKER, (f"file:{path}",), memory_map="always", map_dir=str(tmp_path / "maps"))
    assert not list((tmp_path / "maps").iterdir())
