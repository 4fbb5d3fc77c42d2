"""Grid files: their settings, and what they must not say, which is told in one line before anything is trained."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from conftest import ROOT, TINY, Run, bindings, refused

from dqlab.ablation.config_resolver import ConfigResolver
from dqlab.ablation.driver import stop_on_signal
from dqlab.ablation.grid import Grid
from dqlab.ablation.planning import make_plan
from dqlab.algorithms import algorithms
from dqlab.analysis.results import Report
from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.data.sources import find_dataset
from dqlab.envs import tasks
from dqlab.errors import ConfigError
from dqlab.files import size_of
from dqlab.runs import Experiment

ETA: dict[str, Any] = {"eta": {"DiffusionQL.eta": (0.5, 1.0)}}
WALKER = "walker2d-medium-expert-v2"


def test_an_axis_is_a_parameter_with_values_or_labels_with_bindings() -> None:
    gin_files.load_gin([])
    algorithm: Any = {"QL": {}, "BC": {"Experiment.algorithm": "bc", "BehaviourCloning.policy": "cvae"}}
    grid = Grid(axes={**ETA, "algorithm": algorithm}, base="eta=1.0, QL", exclude=({"eta": 1.0, "algorithm": "BC"},))
    assert [cell.label for cell in grid.settings] == ["eta=0.5, QL", "eta=0.5, BC", "eta=1.0, QL"]
    assert grid.setting("eta=0.5, BC").as_text() == [
        "DiffusionQL.eta = 0.5",
        "Experiment.algorithm = 'bc'",
        "BehaviourCloning.policy = 'cvae'",
        "Experiment.cell = 'eta=0.5, BC'",
    ]


def test_the_papers_ablations_are_there() -> None:
    names = {path.stem for path in (ROOT / "ablations").glob("*.gin")}
    wanted = "steps bc_only gaussian_policy policy_class schedules backbones critics selection samplers eta prediction"
    assert names >= set(wanted.split())


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_has_a_file_that_says_where_its_values_come_from(name: str) -> None:
    path = ROOT / "gin" / f"{name}_walker2d.gin"
    gin_files.load_gin([path])
    assert algorithms.get(Experiment().algorithm) is algorithms.get(name)
    header = path.read_text().split("include", 1)[0]
    assert re.search(r"table|section|appendix|figure", header), "its header cites no place of a paper"


def test_a_cell_is_trained_by_its_label(in_process: Run, tmp_path: Path) -> None:
    file = str(ROOT / "ablations" / "steps.gin")
    done = in_process("train", "--gin", file, "--cell", "N=2", "--steps", "20", "--out", "run", "-q", *bindings())
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["cell"], facts["parameters"]["DiffusionPolicy.n_timesteps"]) == ("N=2", 2)
    again = in_process("train", "--gin", file, "--cell", "N=3", "--out", "other", *bindings())
    refused(again, "error: The grid has no cell 'N=3'. It has 'N=2'; 'N=5'; 'N=10'; 'N=20'.\n")


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("", ("--engine", "locl"), "Unknown engine 'locl'. Did you mean 'local'?"),
        ("", ("--out", "holds"), "holds is not empty and holds no grid. Choose another --out."),
        ("", ("--reuse", "nowhere"), "nowhere is not the folder of a grid"),
        ("", ("--tasks", "walker2d"), "Unknown task 'walker2d'."),
        ("Grid.axes = {'a': {'Experiment.seeds': ((0,), (1,))}}", (), "Use Grid.seeds."),
        ("DiffusionPolicy.denoiser = 'mpl'", (), f"Cell 'eta=0.5' on {WALKER}: made.gin:4: Unknown denoiser 'mpl'"),
    ],
)
def test_the_command_line_tells_it_in_one_line(
    in_process: Run, tmp_path: Path, text: str, more: tuple[str, ...], words: str
) -> None:
    (tmp_path / "holds").mkdir()
    (tmp_path / "holds" / "something").touch()
    grid = f"include 'gin/diffql_walker2d.gin'\nGrid.axes = {ETA!r}\nExperiment.task = '{WALKER}'\n{text}\n"
    (tmp_path / "made.gin").write_text(grid)
    done = in_process("ablate", "--grid", "made.gin", "--out", "out", "--dry-run", *more)
    refused(done, words)


def check_refusal(part: Any, words: str, **values: Any) -> None:
    gin_files.load_gin([])
    with pytest.raises(ConfigError) as error:
        part(**values)
    assert words in str(error.value)


NO_NAMES: list[Any] = [5, WALKER, {WALKER: 1}, ([WALKER],), (5,), ("",), (WALKER, WALKER), None]
NO_SEEDS: list[Any] = [5, 1.5, "01", ([1],), {0: 1}, (-1,), (True,), (0.0,), (0, 0), (), None, (2**32,)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        *(({"seeds": seeds}, "Grid.seeds must be a tuple of different integers >= 0") for seeds in NO_SEEDS),
        *(({"tasks": names}, "Grid.tasks must be a tuple of different names") for names in NO_NAMES),
        ({"hours": -1}, "Grid.hours must be at least 0"),
        ({"base": "N=7"}, "Grid.base='N=7' is no cell"),
        ({"exclude": ({"M": 2},)}, "Grid.exclude names the axis 'M'"),
        ({"exclude": ({"eta": 3},)}, "Grid.exclude names '3' on the axis 'eta'"),
        ({"exclude": ({"eta": 0.5}, {"eta": 1.0})}, "leaves nothing of the grid"),
        ({"exclude": ("eta=0.5",)}, "must be a tuple of"),
    ],
)
def test_grids(values: dict[str, Any], words: str) -> None:
    check_refusal(Grid, words, axes=ETA, **values)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (5, "Grid.axes must be {axis: {parameter: values} or {label: bindings}}, not 5"),
        ({}, "Grid.axes is empty"),
        ({5: {"x": {}}}, "Grid.axes['5']: an axis' name, and a label, must be a text, not 5"),
        ({"a": (0.5, 1.0)}, "Grid.axes['a'] must be {parameter: values} or {label: bindings}, not (0.5, 1.0)"),
        ({"a": {"DiffusionQL.eta": 0.5}}, "one parameter a tuple of values"),
        ({"a": {"DiffusionQL.eta": (1.0,), "DiffusionQL.tau": (0.1,)}}, "one parameter a tuple of values"),
        ({"a": {"DiffusionQL.etaa": (0.5,)}}, "'DiffusionQL' has no parameter 'etaa'. Did you mean 'eta'?"),
        ({"a": {"x": {"DifusionQL.eta": 0.5}}}, "nothing is called 'DifusionQL'. Did you mean 'DiffusionQL'?"),
        ({"a": {"x": {}, None: {}}}, "Grid.axes['a']: an axis' name, and a label, must be a text, not None"),
        ({"a": {5: (1,)}}, "Grid.axes['a']: 5 is no parameter's name. Write it as Configurable.parameter."),
        ({"a": {"x": {"nonsense": 1}}}, "Grid.axes['a']: 'nonsense' is no parameter's name"),
        ({"a": {".eta": (1,)}}, "Grid.axes['a']: '.eta' is no parameter's name"),
        ({"a": {"DiffusionQL.": (1,)}}, "Grid.axes['a']: 'DiffusionQL.' is no parameter's name"),
        ({**ETA, "b": {"x": {}, "y": {"algorithm.DiffusionQL.eta": 2.0}}}, "axes set algorithm.DiffusionQL.eta"),
    ],
)
def test_axes(axes: Any, words: str) -> None:
    check_refusal(Grid, words, axes=axes)


def test_no_two_settings_have_one_label() -> None:
    axes: Any = {"a": {"x, y": {}, "x": {"DiffusionQL.eta": 0.5}}, "b": {"z": {}, "y, z": {"DiffusionQL.tau": 0.1}}}
    check_refusal(Grid, "several settings have the label 'x, y, z'", axes=axes)
    assert len(Grid(axes=axes, exclude=({"a": "x", "b": "y, z"},)).settings) == 3


@pytest.mark.parametrize(
    ("parameter", "instead"),
    [
        ("Experiment.task", "Use Grid.tasks."),
        ("experiment.Experiment.seeds", "Use Grid.seeds."),
        ("Experiment.replicas", "Use Grid.seeds;"),
        ("Experiment.cell", "A setting's label is its cell."),
        ("Grid.base", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("Report.reps", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("tracking.Tracking.mlflow", "It holds for the grid as a whole: set it beside Grid.axes."),
    ],
)
def test_no_axis_sets_what_holds_for_the_grid(parameter: str, instead: str) -> None:
    for axis in ({parameter: (0, 1)}, {"x": {}, "y": {parameter: 1}}):
        check_refusal(Grid, f"Grid.axes['a']: {parameter} cannot differ between settings. {instead}", axes={"a": axis})


def test_a_gin_file_for_a_label_gives_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "label.gin"
    path.write_text("experiment.Experiment.task = 'x'\nTraining.steps = 3\nReport.reps = 5\nDiffusionQL.eta = 2.0\n")
    gin_files.load_gin([])
    assert Grid(axes={"a": {"x": str(path)}}).settings[0].bindings == {"DiffusionQL.eta": 2.0}


@pytest.mark.parametrize("name", ["nope/{x}.gin", "{}", "{task.gin", "gin/nowhere/{task}.gin"])
def test_only_the_task_is_replaced_in_the_name_of_its_gin_file(name: str) -> None:
    reader = ConfigResolver([ROOT / "ablations" / "steps.gin"], [f"Grid.task_gin={name!r}"])
    with pytest.raises(ConfigError) as error:
        reader.load(WALKER, ())
    wanted = name.replace("{task}", WALKER)
    assert str(error.value).startswith(f"Grid.task_gin, for the task '{WALKER}': There is no gin file '{wanted}'.")


def test_a_binding_is_compared_with_all_settings_quickly() -> None:
    values = tuple(index / 1e4 for index in range(10_000))
    text = f"Grid.axes={{'eta': {{'DiffusionQL.eta': {values}}}, 'a': {{'x': {{}}, 'y': {{'Training.steps': 20}}}}}}"
    exclude = "Grid.exclude=({'eta': 0.0, 'a': 'x'},)"
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"--set training.Training.steps sets what the grid varies \(axis 'a'\)"):
        ConfigResolver([ROOT / "gin" / "diffql_walker2d.gin"], [text, exclude, "training.Training.steps=40"])
    assert time.process_time() - begun < 10.0


@pytest.mark.parametrize("hours", [1e300, float("inf")])
def test_hours_beyond_what_a_timer_can_wait_for(hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lost.append)
    before = set(threading.enumerate())
    with stop_on_signal(lambda: None, print, hours) as stopped:
        (timer,) = set(threading.enumerate()) - before
        timer.join(0.1)
        assert timer.is_alive()
        assert not stopped.is_set()
    assert not lost


NO_SCORES: list[Any] = [5.0, "12", (), (1, 2, 3), ("1",), (None,), (True,), (float("nan"),), (1, -1), (9**999,)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rules": 5}, "Report.rules must be a tuple of at least one selection rule, not 5"),
        ({"rules": "last"}, "Report.rules must be a tuple"),
        ({"rules": ()}, "Report.rules must be a tuple"),
        ({"rules": ("last", "best")}, "Report.rules: 'best' is no selection rule. Did you mean 'best_online'"),
        ({"rules": (["last"],)}, "Report.rules: ['last'] is no selection rule. "),
        ({"rules": ("last", "last")}, "Report.rules must be different selection rules"),
        ({"reference_rule": "nonsense"}, "Report.reference_rule='nonsense' is no selection rule"),
        ({"reference": ("x",)}, "Report.reference must be {label: {task: (score,)}}, not ('x',)"),
        ({"reference": {5: {}}}, "Report.reference must be {label: "),
        ({"reference": {"eta=0.5": 5}}, "Report.reference['eta=0.5'] must be {task: (score,)}, not 5"),
        ({"reference": {"x": {5: (1.0,)}}}, "Report.reference['x'] must be {task: "),
        *(
            ({"reference": {"x": {WALKER: score}}}, f"Report.reference['x']['{WALKER}'] must be (score,) or (score, st")
            for score in NO_SCORES
        ),
    ],
)
def test_report_settings(values: dict[str, Any], words: str) -> None:
    check_refusal(Report, words, **values)


def test_rivals_that_were_not_run_and_averages_are_welcome() -> None:
    published = {"CQL": {WALKER: (50,), "average": [50.5, 1]}, "IQL": {}}
    assert Report(reference=published).reference == published  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a grid and a dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    text = "Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}\nGrid.seeds = (0,)\n"
    (tmp_path / "made.gin").write_text(f"include 'gin/diffql_walker2d.gin'\n{text}")
    d4rl_file()
    return tmp_path


def data_of(source: str) -> Any:
    plan = make_plan(ConfigResolver(["made.gin"], [*TINY, f"load_dataset.sources=({source!r},)"]))
    return next(iter(plan.kinds.values())).data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_grid_on_a_dataset_of_minaris(place: Path) -> None:
    pytest.importorskip("minari")
    from made_minari import create, roll_out

    env = gymnasium.make("Walker2d-v4", max_episode_steps=20)
    create("made/walker-v0", [roll_out(env, 0)], env=env)
    data = data_of("minari:made/walker-v0")
    assert data.path == place / "store" / "made" / "walker-v0"
    assert size_of(data.path) > 10_000


def test_a_named_format_stays_named_for_packs(place: Path) -> None:
    assert main(["data", "convert", "made.hdf5", "made.npz"]) == 0
    (place / "made.npz").rename(place / "odd.hdf5")
    source = data_of("file:npz:odd.hdf5").source
    assert source == f"file:npz:{place / 'odd.hdf5'}"
    assert len(find_dataset(tasks.get(WALKER), (source,)).read(tasks.get(WALKER))) == 60
