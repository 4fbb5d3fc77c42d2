"""Grids on datasets that are no file of a known suffix: Minari's folders, and files whose format is named."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY

from dqlab.ablation.engines.base import Job
from dqlab.ablation.engines.ray_node import FileSet, Inputs, check_files
from dqlab.ablation.planning import make_plan
from dqlab.ablation.reader import ConfigResolver, Data
from dqlab.cli import main
from dqlab.data.sources import find_dataset
from dqlab.envs import tasks
from dqlab.errors import ConfigError
from dqlab.files import size_of

TASK = tasks.get("walker2d-medium-expert-v2")
GRID = """
include 'gin/diffql_walker2d.gin'
Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}
Grid.seeds = (0,)
Report.reps = 100
"""


@pytest.fixture
def place(tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a set in every format."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    (tmp_path / "made.gin").write_text(GRID)
    d4rl_file()
    return tmp_path


def planned(source: str) -> tuple[Data, Job]:
    plan = make_plan(ConfigResolver(["made.gin"], [*TINY, f"load_dataset.sources=({source!r},)"]))
    data = next(iter(plan.kinds.values())).data
    assert data.path is not None
    return data, Job("a", Path("a"), {TASK.name: data.path}, format=data.format)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_grid_on_a_dataset_of_minaris(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minari")
    assert main(["data", "convert", "made.hdf5", "minari:made/walker-v0"]) == 0
    data, job = planned("minari:made/walker-v0")
    assert data.path == place / "store" / "made" / "walker-v0"
    assert size_of(data.path) > 10_000
    with pytest.raises(ConfigError, match=r"walker-v0 is a folder, which Ray's nodes are not sent.*convert"):
        check_files([job])
    command = ["ablate", "--grid", "made.gin", "--out", "grid", "--steps", "4", "--workers", "1"]
    settings = ["--set", *TINY, "load_dataset.sources=('minari:made/walker-v0',)", "Training.eval_every=4"]
    assert main([*command, "--dry-run", *settings]) == 0
    assert "1 cell" in capsys.readouterr().out


def test_a_named_format_stays_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For packs, which run elsewhere in the file system, and on nodes, to which the file travels."""
    assert main(["data", "convert", "made.hdf5", "made.pkl"]) == 0
    (place / "made.pkl").rename(place / "odd.hdf5")
    data, job = planned("file:trajectories:odd.hdf5")
    assert data.source == f"file:trajectories:{place / 'odd.hdf5'}"
    (item,) = Inputs(lambda content: content).of(job)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "node"))
    sent = place / "node" / "dqlab-inputs" / item.digest / "odd.hdf5"
    sent.parent.mkdir(parents=True)
    data.path.rename(sent)
    found, (binding,) = FileSet(job, 1, [item], False, {}).settings(place / "cache")
    assert (found, binding) == ({}, f"load_dataset.sources=('file:trajectories:{sent}',)")
    with find_dataset(TASK, (f"file:trajectories:{sent}",))[1].open(TASK) as columns:
        assert len(columns) == 60
