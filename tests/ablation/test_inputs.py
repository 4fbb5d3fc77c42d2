"""What a grid file must not say: every mistake is told in one line, before anything is trained."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from made_grids import made_grid

from dqlab.ablation.config_resolver import ConfigResolver, Data
from dqlab.ablation.driver import stop_on_signal
from dqlab.ablation.grid import Grid
from dqlab.ablation.planning import make_plan
from dqlab.analysis.cautions import beside_nothing
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import analyse
from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.data.sources import find_dataset
from dqlab.envs import tasks
from dqlab.errors import ConfigError
from dqlab.files import size_of

ETA: dict[str, Any] = {"eta": {"DiffusionQL.eta": (0.5, 1.0)}}
WALKER = "walker2d-medium-expert-v2"


def refused(part: Any, words: str, **values: Any) -> None:
    gin_files.load_gin([])
    with pytest.raises(ConfigError) as error:
        part(**values)
    assert words in str(error.value)


def ablate(folder: Path, text: str, *more: str) -> int:
    path = folder / "made.gin"
    path.write_text(f"include 'gin/diffql_walker2d.gin'\nGrid.axes = {ETA!r}\n{text}\n")
    return main(["ablate", "--grid", str(path), "--out", str(folder / "out"), "--dry-run", *more])


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("", ("--seeds", "-1"), "Grid.seeds must be a tuple of different integers >= 0 (and below 2**32), not (-1,)"),
        ("Grid.seeds = 5", (), "Grid.seeds must be a tuple of different integers"),
        ("Grid.tasks = 'walker2d-medium-v2'", (), "Grid.tasks must be a tuple of different names"),
        ("Grid.axes = 5", (), "Grid.axes must be {axis: "),
        ("Grid.axes = {'a': {'Experiment.seeds': ((0,), (1,))}}", (), "Use Grid.seeds."),
        ("Report.reference_rule = 'nonsense'", (), "Report.reference_rule='nonsense' is no selection rule"),
        ("Report.reference = {'eta=0.5': 5}", (), "Report.reference['eta=0.5'] must be {task: (score,)}, not 5"),
        ("Grid.task_gin = '{'", (), f"Grid.task_gin, for the task '{WALKER}': There is no gin file '{{'."),
        (
            "Grid.axes = {'a': {'x': {}, 'y': {'Training.steps': 20}}}",
            ("--set", "Training.steps=40"),
            "--set Training.steps sets what the grid varies (axis 'a')",
        ),
    ],
)
def test_the_command_line_tells_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, more: tuple[str, ...], words: str
) -> None:
    assert ablate(tmp_path, f"Experiment.task = '{WALKER}'\n{text}", *more) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dqlab: error: ")
    assert words in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("seeds", [5, 1.5, "01", ([1],), {0: 1}, (-1,), (True,), (0.0,), (0, 0), (), None, (2**32,)])
def test_seeds(seeds: Any) -> None:
    refused(Grid, "Grid.seeds must be a tuple of different integers >= 0", axes=ETA, seeds=seeds)


@pytest.mark.parametrize("tasks", [5, WALKER, {WALKER: 1}, ([WALKER],), (5,), ("",), (WALKER, WALKER), None])
def test_tasks(tasks: Any) -> None:
    refused(Grid, "Grid.tasks must be a tuple of different names", axes=ETA, tasks=tasks)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (5, "Grid.axes must be {axis: {parameter: values} or {label: bindings}}, not 5"),
        ({}, "Grid.axes is empty"),
        ({5: {"x": {}}}, "Grid.axes: an axis' name must be a text, not 5"),
        ({"a": {5: {}}}, "Grid.axes['a']: a label must be a text, not 5"),
        ({"a": {"x": {}, None: {}}}, "Grid.axes['a']: a label must be a text, not None"),
        ({"a": {5: (1,)}}, "Grid.axes['a']: 5 is no parameter's name. Write it as Configurable.parameter."),
        ({"a": {"x": {5: 1}}}, "Grid.axes['a']: 5 is no parameter's name"),
        ({"a": {"nonsense": (1,)}}, "Grid.axes['a']: 'nonsense' is no parameter's name"),
        ({"a": {".eta": (1,)}}, "Grid.axes['a']: '.eta' is no parameter's name"),
        ({"a": {"DiffusionQL.": (1,)}}, "Grid.axes['a']: 'DiffusionQL.' is no parameter's name"),
    ],
)
def test_axes(axes: Any, words: str) -> None:
    refused(Grid, words, axes=axes)


def test_no_two_settings_have_one_label() -> None:
    axes: Any = {"a": {"x, y": {}, "x": {"DiffusionQL.eta": 0.5}}, "b": {"z": {}, "y, z": {"DiffusionQL.tau": 0.1}}}
    refused(Grid, "several settings have the label 'x, y, z'", axes=axes)
    assert len(Grid(axes=axes, exclude=({"a": "x", "b": "y, z"},)).settings) == 3


def test_a_label_goes_before_another_ones_alias() -> None:
    gin_files.load_gin([])
    grid = Grid(axes={"a": {"x": {}, "a=x": {"DiffusionQL.eta": 0.5}}})
    assert grid.setting("a=x").bindings == {"DiffusionQL.eta": 0.5}
    assert grid.setting("x").bindings == {}


@pytest.mark.parametrize(
    ("parameter", "instead"),
    [
        ("Experiment.task", "Use Grid.tasks."),
        ("experiment.Experiment.task", "Use Grid.tasks."),
        ("Experiment.seeds", "Use Grid.seeds."),
        ("experiment.Experiment.seeds", "Use Grid.seeds."),
        ("Experiment.replicas", "Use Grid.seeds;"),
        ("Experiment.cell", "A setting's label is its cell."),
        ("Grid.base", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("ablation.Grid.hours", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("Report.reps", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("Tracking.mlflow", "It holds for the grid as a whole: set it beside Grid.axes."),
        ("tracking.Tracking.mlflow", "It holds for the grid as a whole: set it beside Grid.axes."),
    ],
)
def test_no_axis_sets_what_holds_for_the_grid(parameter: str, instead: str) -> None:
    for axis in ({parameter: (0, 1)}, {"x": {}, "y": {parameter: 1}}):
        refused(Grid, f"Grid.axes['a']: {parameter} cannot differ between settings. {instead}", axes={"a": axis})


def test_a_gin_file_for_a_label_gives_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "label.gin"
    path.write_text("experiment.Experiment.task = 'x'\nTraining.steps = 3\nReport.reps = 5\nDiffusionQL.eta = 2.0\n")
    gin_files.load_gin([])
    assert Grid(axes={"a": {"x": str(path)}}).settings[0].bindings == {"DiffusionQL.eta": 2.0}


@pytest.mark.parametrize("name", ["nope/{x}.gin", "{", "{}", "{task.gin", "gin/nowhere/{task}.gin"])
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
    with stop_on_signal(lambda: None, print, hours) as stopped:
        (timer,) = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        timer.join(0.1)
        assert timer.is_alive()
        assert not stopped.is_set()
    assert not lost


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rules": 5}, "Report.rules must be a tuple of at least one selection rule, not 5"),
        ({"rules": "last"}, "Report.rules must be a tuple"),
        ({"rules": ()}, "Report.rules must be a tuple"),
        ({"rules": (5,)}, "Report.rules: 5 is no selection rule. "),
        ({"rules": (["last"],)}, "Report.rules: ['last'] is no selection rule. "),
        ({"rules": ("last", "last")}, "Report.rules must be different selection rules"),
        ({"reference_rule": "nonsense"}, "Report.reference_rule='nonsense' is no selection rule"),
        ({"reference": ("x",)}, "Report.reference must be {label: {task: (score,)}}, not ('x',)"),
        ({"reference": None}, "Report.reference must be {label: "),
        ({"reference": {5: {}}}, "Report.reference must be {label: "),
        ({"reference": {"eta=0.5": 5}}, "Report.reference['eta=0.5'] must be {task: (score,)}, not 5"),
        ({"reference": {"x": {5: (1.0,)}}}, "Report.reference['x'] must be {task: "),
    ],
)
def test_report_settings(values: dict[str, Any], words: str) -> None:
    refused(Report, words, **values)


@pytest.mark.parametrize(
    "score",
    [5.0, "12", (), (1, 2, 3), ("1",), (None,), (True,), (float("nan"),), (1, float("inf")), (1, -1), (9**999,)],
)
def test_published_scores(score: Any) -> None:
    words = f"Report.reference['x']['{WALKER}'] must be (score,) or (score, standard error), not "
    refused(Report, words, reference={"x": {WALKER: score}})


def test_rivals_that_were_not_run_and_averages_are_welcome() -> None:
    published = {"CQL": {WALKER: (50,), "average": [50.5, 1]}, "IQL": {}}
    assert Report(reference=published).reference == published  # type: ignore[arg-type]


def cautions_of(results: GridResults, **settings: Any) -> str:
    return " ".join(analyse(results, Report(reps=100, **settings)).cautions)


def test_a_published_name_that_is_nearly_one_of_the_grids_gets_a_caution() -> None:
    published = {"N=50": {"average": (1.0,), "walker2d-medum-expert-v2": (1.0,)}, "CQL": {"hopper-medium-v2": (1.0,)}}
    said = cautions_of(made_grid(), reference={**published, "N=5": {WALKER: (1.0,)}})
    assert "The reference names 'N=50', which is no setting of this grid; nothing is beside it." in said
    assert "The reference names 'walker2d-medum-expert-v2', which is no task of this grid" in said
    assert said.count("The reference names") == 2


def test_the_papers_references_get_no_caution() -> None:
    for path in sorted((ROOT / "ablations").glob("paper_*.gin")):
        gin_files.load_gin([path])
        grid = Grid()
        renamed = replace(made_grid(), labels=tuple(s.label for s in grid.settings), tasks=grid.tasks)
        assert not list(beside_nothing(renamed, Report()))
        assert Report().reference


def test_different_numbers_of_updates_get_a_caution() -> None:
    results = made_grid()

    def with_steps(*steps: int) -> GridResults:
        given = [
            replace(result, summary={**result.summary, "steps": steps[index % len(steps)]})
            for index, result in enumerate(results.results)
        ]
        return replace(results, results=tuple(given))

    assert "Cells were trained for different numbers of updates: 40; 20,000." in cautions_of(with_steps(20000, 40))
    assert "numbers of updates" not in cautions_of(with_steps(40))


def test_no_two_axes_set_one_parameter() -> None:
    gin_files.load_gin([])
    axes = {"eta": {"DiffusionQL.eta": (0.5, 1.0)}, "kind": {"a": {}, "b": {"algorithm.DiffusionQL.eta": 2.0}}}
    with pytest.raises(ConfigError, match=r"several axes set algorithm.DiffusionQL.eta"):
        Grid(axes=axes)


WALKER_GRID = """
include 'gin/diffql_walker2d.gin'
Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}
Grid.seeds = (0,)
Report.reps = 100
"""


@pytest.fixture
def place(tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a grid and a dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    (tmp_path / "made.gin").write_text(WALKER_GRID)
    d4rl_file()
    return tmp_path


def data_of(source: str) -> Data:
    plan = make_plan(ConfigResolver(["made.gin"], [*TINY, f"load_dataset.sources=({source!r},)"]))
    return next(iter(plan.kinds.values())).data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_grid_on_a_dataset_of_minaris(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minari")
    assert main(["data", "convert", "made.hdf5", "minari:made/walker-v0"]) == 0
    data = data_of("minari:made/walker-v0")
    assert data.path == place / "store" / "made" / "walker-v0"
    assert size_of(data.path) > 10_000
    command = ["ablate", "--grid", "made.gin", "--out", "grid", "--steps", "4", "--workers", "1"]
    settings = ["--set", *TINY, "load_dataset.sources=('minari:made/walker-v0',)", "Training.eval_every=4"]
    assert main([*command, "--dry-run", *settings]) == 0
    assert "1 cell" in capsys.readouterr().out


def test_a_named_format_stays_named_for_packs(place: Path) -> None:
    assert main(["data", "convert", "made.hdf5", "made.pkl"]) == 0
    (place / "made.pkl").rename(place / "odd.hdf5")
    source = data_of("file:trajectories:odd.hdf5").source
    assert source == f"file:trajectories:{place / 'odd.hdf5'}"
    with find_dataset(tasks.get(WALKER), (source,)).open(tasks.get(WALKER)) as columns:
        assert len(columns) == 60
