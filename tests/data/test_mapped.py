"""Transitions mapped from the disk: the same as in memory, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dqlab.config import gin_files
from dqlab.data import arrays as data_arrays
from dqlab.data import load_dataset, transitions
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
    assert all(map(torch.equal, there.fields, here.fields))
    assert there.provenance.mapped == str(tmp_path)
    assert there.provenance.as_dict() | {"mapped": ""} == here.provenance.as_dict()
    index = torch.randint(0, len(here), (2, 32))
    assert all(map(torch.equal, there.batch(index), here.batch(index)))


def test_it_is_never_copied_and_leaves_nothing(tmp_path: Path) -> None:
    data = load("always", tmp_path)
    assert data.to("cpu", torch.float32).state.data_ptr() == data.state.data_ptr()
    maps = "/proc/self/maps"
    assert Path(maps).read_text().count(f"{tmp_path}/") == 4
    assert not list(tmp_path.iterdir())
    del data
    assert f"{tmp_path}/" not in Path(maps).read_text()


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


def test_too_small_a_disk_leaves_nothing(mounted: Callable[[str], Path]) -> None:
    folder = mounted("1m")
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
