"""Grid files: their settings, and what they must not say, which is told in one line before anything is trained."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from conftest import ROOT, TINY, Run, bindings, refused

from dqlab.ablation.grid import Grid
from dqlab.ablation.planning import ConfigResolver, make_plan
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


def test_grids_that_ship_are_listed() -> None:
    page = (ROOT / "docs" / "howto" / "ablate.md").read_text()
    listed = page.partition("Grids that ship:")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {path.stem for path in (ROOT / "ablations").glob("*.gin")}


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
        ("", ("--out", "holds"), "holds is there already, and no grid's folder. Choose another --out."),
        ("", ("--out", "made.gin"), "made.gin is there already, and no grid's folder. Choose another --out."),
        ("", ("--reuse", "nowhere"), "nowhere is not the folder of a grid"),
        ("", ("--tasks", "walker2d"), "Unknown task 'walker2d'."),
        ("", ("--device", "cudaa"), "error: --device cudaa: dqlab computes on cpu and cuda, or cuda:N."),
        ("Grid.axes = {'a': {'Experiment.seeds': ((0,), (1,))}}", (), "Use Grid.seeds."),
        (
            "Grid.axes = {'a': {'DiffusionPolicy.denoiser': ('mpl',)}}",
            (),
            f"Cell 'a=mpl' on {WALKER}: Unknown denoiser",
        ),
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
    refused(in_process("ablate", "--grid", "made.gin", "--out", "out", "--dry-run", *more), words)


NO_NAMES: list[Any] = [5, WALKER, {WALKER: 1}, ([WALKER],), (5,), ("",), (WALKER, WALKER), None]
NO_SEEDS: list[Any] = [5, 1.5, "01", ([1],), {0: 1}, (-1,), (True,), (0.0,), (0, 0), (), None, (2**32,)]
NO_SCORES: list[Any] = [5.0, "12", (), (1, 2, 3), ("1",), (None,), (True,), (float("nan"),), (1, -1), (9**999,)]
SHARED_LABELS = {"a": {"x, y": {}, "x": {"DiffusionQL.eta": 0.5}}, "b": {"z": {}, "y, z": {"DiffusionQL.tau": 0.1}}}
WHOLE = "cannot differ between settings. It holds for the grid as a whole: set it beside Grid.axes."
NOT_FOR_AXES = {
    "Experiment.task": "cannot differ between settings. Use Grid.tasks.",
    "experiment.Experiment.seeds": "cannot differ between settings. Use Grid.seeds.",
    "Experiment.replicas": "cannot differ between settings. Use Grid.seeds;",
    "Experiment.cell": "cannot differ between settings. A setting's label is its cell.",
    **dict.fromkeys(("Grid.base", "Report.reps", "tracking.Tracking.mlflow"), WHOLE),
    "DiffusionQL.etaa": "'DiffusionQL' has no parameter 'etaa'. Did you mean 'eta'?",
    "DifusionQL.eta": "nothing is called 'DifusionQL'. Did you mean 'DiffusionQL'?",
    **{name: f"{name!r} is no parameter's name" for name in ("nonsense", ".eta", "DiffusionQL.")},
}
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    *((Grid, {"seeds": seeds}, "Grid.seeds must be a tuple of different integers >= 0") for seeds in NO_SEEDS),
    *((Grid, {"tasks": names}, "Grid.tasks must be a tuple of different names") for names in NO_NAMES),
    *((Grid, {"axes": {"a": {name: (0, 1)}}}, words) for name, words in NOT_FOR_AXES.items()),
    *((Grid, {"axes": {"a": {"x": {}, "y": {name: 1}}}}, words) for name, words in NOT_FOR_AXES.items()),
    (Grid, {"base": "N=7"}, "Grid.base='N=7' is no cell"),
    (Grid, {"exclude": ({"M": 2},)}, "Grid.exclude names the axis 'M'"),
    (Grid, {"exclude": ({"eta": 3},)}, "Grid.exclude names '3' on the axis 'eta'"),
    (Grid, {"exclude": ({"eta": 0.5}, {"eta": 1.0})}, "leaves nothing of the grid"),
    (Grid, {"exclude": ("eta=0.5",)}, "must be a tuple of"),
    (Grid, {"axes": 5}, "Grid.axes must be {axis: {parameter: values} or {label: bindings}}, not 5"),
    (Grid, {"axes": {}}, "Grid.axes is empty"),
    (Grid, {"axes": {5: {"x": {}}}}, "Grid.axes['5']: an axis' name, and a label, must be a text, not 5"),
    (
        Grid,
        {"axes": {"a": {"x": {}, None: {}}}},
        "an axis' name, and a label, must be a text, not None",
    ),
    (Grid, {"axes": {"a": (0.5, 1.0)}}, "Grid.axes['a'] must be {parameter: values} or {label: bindings}, not (0.5, "),
    (Grid, {"axes": {"a": {"DiffusionQL.eta": 0.5}}}, "one parameter a tuple of values"),
    (Grid, {"axes": {"a": {"DiffusionQL.eta": (1,), "DiffusionQL.tau": (1,)}}}, "one parameter a tuple of values"),
    (Grid, {"axes": {"a": {5: (1,)}}}, "Grid.axes['a']: 5 is no parameter's name. Write it as Configurable.parameter."),
    (Grid, {"axes": {**ETA, "b": {"x": {}, "y": {"algorithm.DiffusionQL.eta": 2.0}}}}, "axes set algorithm.DiffusionQ"),
    (Grid, {"axes": SHARED_LABELS}, "several settings have the label 'x, y, z'"),
    *((Report, {"rules": no}, "Report.rules must be a tuple of at least one selection rule") for no in (5, "last", ())),
    (Report, {"rules": ("last", "best")}, "Report.rules: 'best' is no selection rule. Did you mean 'best_online'"),
    (Report, {"rules": (["last"],)}, "Report.rules: ['last'] is no selection rule. "),
    (Report, {"rules": ("last", "last")}, "Report.rules must be different selection rules"),
    (Report, {"reference_rule": "nonsense"}, "Report.reference_rule='nonsense' is no selection rule"),
    (Report, {"reference": ("x",)}, "Report.reference must be {label: {task: (score,)}}, not ('x',)"),
    (Report, {"reference": {5: {}}}, "Report.reference must be {label: "),
    (Report, {"reference": {"eta=0.5": 5}}, "Report.reference['eta=0.5'] must be {task: (score,)}, not 5"),
    (Report, {"reference": {"x": {5: (1.0,)}}}, "Report.reference['x'] must be {task: "),
    *((Report, {"reference": {"x": {WALKER: one}}}, f"Report.reference['x']['{WALKER}'] must be") for one in NO_SCORES),
]


@pytest.mark.parametrize(("part", "values", "words"), REFUSED)
def test_what_a_grid_must_not_say(part: Any, values: dict[str, Any], words: str) -> None:
    gin_files.load_gin([])
    with pytest.raises(ConfigError) as error:
        part(**({"axes": ETA} if part is Grid else {}) | values)
    assert words in str(error.value)


def test_what_it_may_say() -> None:
    """Points whose labels are told apart by an exclusion; rivals that were not run, and averages."""
    gin_files.load_gin([])
    assert len(Grid(axes=SHARED_LABELS, exclude=({"a": "x", "b": "y, z"},)).settings) == 3
    published = {"CQL": {WALKER: (50,), "average": [50.5, 1]}, "IQL": {}}
    assert Report(reference=published).reference == published  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nope/{x}.gin", "{}", "{task.gin", "gin/nowhere/{task}.gin"])
def test_only_the_task_is_replaced_in_the_name_of_its_gin_file(name: str) -> None:
    reader = ConfigResolver([ROOT / "ablations" / "steps.gin"], [f"Grid.task_gin={name!r}"])
    wanted = re.escape(name.replace("{task}", WALKER))
    with pytest.raises(ConfigError, match=f"^Grid.task_gin, for the task '{WALKER}': There is no gin file '{wanted}'."):
        reader.load(WALKER, ())


def test_a_binding_is_compared_with_all_settings_quickly() -> None:
    values = tuple(index / 1e4 for index in range(10_000))
    text = f"Grid.axes={{'eta': {{'DiffusionQL.eta': {values}}}, 'a': {{'x': {{}}, 'y': {{'Training.steps': 20}}}}}}"
    exclude = "Grid.exclude=({'eta': 0.0, 'a': 'x'},)"
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"--set training.Training.steps sets what the grid varies \(axis 'a'\)"):
        ConfigResolver([ROOT / "gin" / "diffql_walker2d.gin"], [text, exclude, "training.Training.steps=40"])
    assert time.process_time() - begun < 10.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_data_of_a_grid(tmp_path: Path, d4rl_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset of Minari's; and a file whose format is named, which stays named for packs."""
    pytest.importorskip("minari")
    from made_minari import create, roll_out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    text = "Grid.axes = {'N': {'DiffusionPolicy.n_timesteps': (2,)}}\nGrid.seeds = (0,)\n"
    Path("made.gin").write_text(f"include 'gin/diffql_walker2d.gin'\n{text}")

    def data_of(source: str) -> Any:
        plan = make_plan(ConfigResolver(["made.gin"], [*TINY, f"load_dataset.sources=({source!r},)"]))
        return next(iter(plan.kinds.values())).data

    env = gymnasium.make("Walker2d-v4", max_episode_steps=20)
    create("made/walker-v0", [roll_out(env, 0)], env=env)
    data = data_of("minari:made/walker-v0")
    assert data.path == tmp_path / "store" / "made" / "walker-v0"
    assert size_of(data.path) > 10_000
    assert main(["data", "convert", d4rl_file().name, "made.npz"]) == 0
    Path("made.npz").rename("odd.hdf5")
    source = data_of("file:npz:odd.hdf5").source
    assert source == f"file:npz:{tmp_path / 'odd.hdf5'}"
    assert len(find_dataset(tasks.get(WALKER), (source,)).read(tasks.get(WALKER))) == 60
