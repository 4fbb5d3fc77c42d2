"""Grid files: their cells, their mistakes, and every cell of the shipped ones as an experiment."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, bindings

from dqlab.ablation.grid import Grid, Setting
from dqlab.algorithms import algorithms
from dqlab.config import gin_files
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.build import check_experiment

Run = Callable[..., subprocess.CompletedProcess[str]]
FILES = sorted((ROOT / "ablations").glob("*.gin"))


def cells_of(path: Path) -> list[Setting]:
    gin_files.load_gin([path])
    return Grid().settings


def test_an_axis_is_a_parameter_with_values_or_labels_with_bindings() -> None:
    gin_files.load_gin([])
    grid = Grid(
        axes={
            "eta": {"DiffusionQL.eta": (0.5, 1.0)},
            "algorithm": {"QL": {}, "BC": {"Experiment.algorithm": "bc", "BehaviourCloning.policy": "cvae"}},
        },
        base="eta=1.0, QL",
    )
    assert [cell.label for cell in grid.settings] == ["eta=0.5, QL", "eta=0.5, BC", "eta=1.0, QL", "eta=1.0, BC"]
    assert grid.setting("eta=0.5, BC").as_text() == [
        "DiffusionQL.eta = 0.5",
        "Experiment.algorithm = 'bc'",
        "BehaviourCloning.policy = 'cvae'",
        "Experiment.cell = 'eta=0.5, BC'",
    ]
    assert grid.setting("eta=0.5, algorithm=BC") == grid.setting("eta=0.5, BC")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "Grid.axes is empty"),
        ({"eta": (0.5, 1.0)}, r"Grid.axes\['eta'\] must be"),
        ({"eta": {"DiffusionQL.eta": 0.5}}, "one parameter a tuple of values"),
        ({"eta": {"DiffusionQL.eta": (1.0,), "DiffusionQL.tau": (0.1,)}}, "one parameter a tuple of values"),
        ({"eta": {"DiffusionQL.etaa": (0.5,)}}, "'DiffusionQL' has no parameter 'etaa'. Did you mean 'eta'?"),
        ({"eta": {"x": {"DifusionQL.eta": 0.5}}}, "nothing is called 'DifusionQL'. Did you mean 'DiffusionQL'?"),
    ],
)
def test_mistakes_are_one_line(axes: dict[str, object], message: str) -> None:
    gin_files.load_gin([])
    with pytest.raises(ConfigError, match=message):
        Grid(axes=axes)  # type: ignore[arg-type]


def test_an_unknown_cell_gets_the_nearest() -> None:
    gin_files.load_gin([ROOT / "ablations" / "steps.gin"])
    with pytest.raises(ConfigError, match="no cell 'N=11'. It has 'N=2'; 'N=5'; 'N=10'; 'N=20'."):
        Grid().setting("N=11")
    with pytest.raises(ConfigError, match="Grid.base='N=7' is no cell"):
        Grid(base="N=7")


def test_the_papers_ablations_are_there() -> None:
    names = {path.stem for path in FILES}
    wanted = "steps bc_only gaussian_policy policy_class schedules backbones critics selection samplers eta prediction"
    assert names >= set(wanted.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_cell_is_an_experiment_of_its_own(path: Path) -> None:
    """It builds, updates and acts on made-up numbers; no two cells run the same."""
    texts = set()
    cells = cells_of(path)
    for cell in cells:
        loaded = gin_files.load_gin([path], cell.as_text())
        check_experiment(Experiment())
        texts.add(gin_files.operative_text(loaded).replace(cell.label, ""))
    assert len(cells) >= 2
    assert len(texts) == len(cells)


def test_a_cell_is_trained_by_its_label(dqlab: Run, tmp_path: Path) -> None:
    file = str(ROOT / "ablations" / "steps.gin")
    done = dqlab("train", "--gin", file, "--cell", "N=2", "--steps", "20", "--out", "run", "-q", *bindings())
    assert done.returncode == 0, done.stderr
    parameters = json.loads((tmp_path / "run" / "run.json").read_text())["parameters"]
    assert parameters["DiffusionPolicy.n_timesteps"] == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["cell"] == "N=2"
    again = dqlab("train", "--gin", file, "--cell", "N=3", "--out", "other", *bindings())
    assert again.returncode == 2
    assert again.stderr == "dqlab: error: The grid has no cell 'N=3'. It has 'N=2'; 'N=5'; 'N=10'; 'N=20'.\n"


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_has_a_file_that_says_where_its_values_come_from(name: str) -> None:
    path = ROOT / "gin" / f"{name}_walker2d.gin"
    gin_files.load_gin([path])
    assert algorithms.get(Experiment().algorithm) is algorithms.get(name)
    header = path.read_text().split("include", 1)[0]
    assert re.search(r"table|section|appendix|figure", header), "its header cites no place of a paper"
