"""Plans: cells are known by what they run, and packed where they may be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dqlab.ablation.config_resolver import ConfigResolver, canonical_values
from dqlab.ablation.engines.base import engines
from dqlab.ablation.planning import PackSizer, Plan, make_plan, pack_cells
from dqlab.config import gin_files
from dqlab.config.gin_state import bound_parameters, operative_parameters
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.build import check_experiment

EMBEDDED = "load_dataset.sources=('embedded',)"
BY_NAME = "load_dataset.sources=('embedded:walker2d-medium-expert-mini',)"
FILES = sorted((ROOT / "ablations").glob("*.gin"))


def plan_of(name: str, *bindings: str) -> Plan:
    return make_plan(ConfigResolver([ROOT / "ablations" / f"{name}.gin"], [EMBEDDED, *bindings]))


def ids(plan: Plan) -> dict[tuple[str, int], str]:
    return {(cell.label, cell.seed): cell.id for cell in plan.cells}


def grid_file(folder: Path, text: str, base: str = "gin/diffql_walker2d.gin") -> Path:
    path = folder / "made.gin"
    path.write_text(f"include '{base}'\n{text}\n")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_cell_runs_is_what_building_it_reads(path: Path) -> None:
    """Every setting of every shipped grid, built for real, reads exactly the values that the plan goes by."""
    reader = ConfigResolver([path], [EMBEDDED])
    (task, base), *_ = reader.bases().items()
    for setting in reader.grid.settings:
        planned, _ = reader.values(task, base, setting)
        reader.load(task, setting.as_text())
        check_experiment(Experiment())
        built = {name: value for name, value in operative_parameters().items() if name in planned}
        assert {name: planned[name] for name in built} == built
        unread = {name for name in set(planned) - set(built) if not name.startswith(("data.", "reward_transform."))}
        assert unread <= {reader.name(name) for name in setting.bindings} | {"early_stop", "offline_rule"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ids_are_equal_exactly_where_the_same_is_run(path: Path) -> None:
    reader = ConfigResolver([path], [BY_NAME, "Grid.tasks=()", "Grid.seeds=(0, 1)"])
    plan = make_plan(reader)
    texts = {}
    for setting in reader.grid.settings:
        reader.load(next(iter(reader.bases())), setting.as_text())
        check_experiment(Experiment())
        texts[setting.label] = gin_files.operative_text(reader.loaded).replace(repr(setting.label), "")
    same_text = len(set(texts.values())) == len(texts)
    assert (len(set(ids(plan).values())) == len(plan.cells)) == same_text
    assert len(set(ids(plan).values())) == 2 * len(set(texts.values()))


def test_a_cell_has_the_same_id_in_every_grid_that_has_it() -> None:
    steps, eta = ids(plan_of("steps")), ids(plan_of("eta"))
    assert steps["N=5", 3] == eta["eta=1.0", 3]
    assert steps["N=5", 3] != steps["N=5", 2]
    shared = set(steps.values()) & set(eta.values())
    assert len(shared) == 5  # the base experiment's five seeds


INERT = [
    "Experiment.device='cpu'",
    "Experiment.threads=2",
    "Training.execution='eager'",
    "Training.checkpoint_seconds=1.0",
    "Tracking.mlflow=False",
    "GaussianQL.grad_norm=1.0",
    "BehaviourCloning.learning_rate=1e-3",
    "Experiment.env_backend='gymnasium'",
    "DiffusionQL.eta=1",
    "DiffusionQL.backup_candidates=10",
]


@pytest.mark.parametrize("binding", INERT)
def test_what_changes_nothing_changes_no_id(binding: str) -> None:
    assert ids(plan_of("steps", binding)) == ids(plan_of("steps"))


TELLING = [
    "Training.steps=10",
    "Training.eval_episodes=3",
    "DiffusionQL.eta=1.5",
    "DiffusionQL.selection='single'",
    "MLPDenoiser.hidden_dim=32",
    "Experiment.dtype='float64'",
    "load_dataset.sources=('embedded:hopper-medium-expert-mini',)",
    "load_dataset.reward_transform='standardise'",
    "Training.early_stop='patience'",
]


@pytest.mark.parametrize("binding", TELLING)
def test_what_changes_results_changes_every_id(binding: str) -> None:
    changed = ids(make_plan(ConfigResolver([ROOT / "ablations" / "steps.gin"], [EMBEDDED, binding])))
    assert not set(changed.values()) & set(ids(plan_of("steps")).values())


def test_ids_do_not_depend_on_the_process() -> None:
    code = (
        "import json; from dqlab.ablation.planning import make_plan; "
        "from dqlab.ablation.config_resolver import ConfigResolver; "
        f"reader = ConfigResolver(['ablations/steps.gin'], [{EMBEDDED!r}]); "
        "print(json.dumps([p.id for p in make_plan(reader).cells]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(ids(plan_of("steps")).values())


def sizes(plan: Plan, width: int) -> list[int]:
    packs = pack_cells(plan, {cell.id for cell in plan.cells}, lambda kind: width)
    assert sorted(p.id for pack in packs for p in pack.cells) == sorted({p.id for p in plan.cells})
    return [len(pack.cells) for pack in packs]


def test_seeds_and_scalars_share_a_pack_shapes_do_not() -> None:
    assert sizes(plan_of("eta"), 64) == [30]  # six values of eta, five seeds
    assert sizes(plan_of("steps"), 64) == [5, 5, 5, 5]
    assert sizes(plan_of("eta"), 8) == [8, 7, 7, 8]
    assert sizes(plan_of("steps", "Grid.seeds=(0, 1, 2)"), 2) == [2, 1] * 4


def test_packs_for_a_gpu_are_as_large_as_their_numbers_let_them(tmp_path: Path) -> None:
    """Where there is no GPU here, by what one elsewhere is taken to have; float64 takes twice the room."""
    path = grid_file(tmp_path, "Grid.axes = {'eta': {'DiffusionQL.eta': (0.5, 1.0)}}")

    def width(*bindings: str, limit: int = 0) -> int:
        device = ["Experiment.device='cuda'", "Training.batch_size=40000"]
        plan = make_plan(ConfigResolver([path], [EMBEDDED, *device, *bindings]))
        return PackSizer(limit, cells=1000, slots=1)(next(iter(plan.kinds.values())))

    single, double = width(), width("Experiment.dtype='float64'")
    assert 2 < single < 64
    assert double == pytest.approx(single / 2, abs=1)
    assert width(limit=7) == 7
    assert width("Experiment.device='cpu'") == 8


def test_a_pack_is_a_configuration_of_its_own(tmp_path: Path) -> None:
    (pack,) = pack_cells(plan_of("eta", "Grid.seeds=(7, 9)"), Everything(), lambda kind: 64)
    path = tmp_path / "pack.gin"
    path.write_text(pack.as_gin())
    gin_files.load_gin([path])
    replicas = bound_parameters()["experiment.Experiment.replicas"]
    assert [(row["cell"], row["seed"]) for row in replicas.values()][:3] == [
        ("eta=0.01", 7),
        ("eta=0.01", 9),
        ("eta=0.1", 7),
    ]
    assert {row["set"]["algorithm.DiffusionQL.eta"] for row in replicas.values()} == {0.01, 0.1, 0.5, 1.0, 2.0, 5.0}
    assert bound_parameters()["data.load_dataset.sources"] == ("embedded",)


class Everything:
    """Contains all."""

    def __contains__(self, item: object) -> bool:
        return True


def test_settings_that_run_the_same_are_trained_once(tmp_path: Path) -> None:
    path = grid_file(tmp_path, "Grid.axes = {'eta': {'one': {'DiffusionQL.eta': 1.0}, 'paper': {}}}")
    plan = make_plan(ConfigResolver([path], [EMBEDDED]))
    assert plan.same == [("one", "paper")]
    assert len(plan.cells) == 10
    assert len(pack_cells(plan, Everything(), lambda kind: 64)[0].cells) == 5


def test_every_task_has_its_own_values() -> None:
    plan = plan_of("paper_figure3", "Grid.seeds=(0,)", "load_dataset.sources=('embedded',)", "Grid.tasks=" + TWO)
    texts = {kind.task: kind.text for kind in plan.kinds.values()}
    assert "algorithm.DiffusionQL.grad_norm = 5.0\n" in texts["walker2d-medium-expert-v2"]
    assert "training.Training.top_k = 2\n" in texts["hopper-medium-v2"]
    assert "algorithm.DiffusionQL.grad_norm = 9.0\n" in texts["hopper-medium-v2"]
    assert "training.Training.steps = 2000000\n" in texts["hopper-medium-v2"]


TWO = "('walker2d-medium-expert-v2', 'hopper-medium-v2')"


def test_a_file_stands_for_a_label(tmp_path: Path) -> None:
    path = grid_file(tmp_path, "Grid.axes = {'algorithm': {'ours': {}, 'TD3+BC': 'gin/td3_bc_walker2d.gin'}}")
    plan = make_plan(ConfigResolver([path], [EMBEDDED, "Training.steps=77"]))
    text = plan.kinds[plan.cells[-1].kind].text
    assert "algorithm.TD3BC.alpha" not in text.split("set")[0] or plan.cells[-1].scalars["algorithm.TD3BC.alpha"] == 2.5
    assert "training.Training.steps = 77\n" in text
    assert "data.load_dataset.standardise_states = True\n" in text


@pytest.mark.parametrize(
    ("grid", "label", "known"),
    [
        ("steps", "N=2", ["cd8a92d9f4b5b769", "3ae847c03b9143cd"]),
        ("samplers", "DDPM, 20 steps", ["b8e01f9db7a0aad2", "31a9b7bfc2047d8d"]),
    ],
)
def test_cells_of_earlier_versions_are_known(grid: str, label: str, known: list[str]) -> None:
    """By their ids, or everything that they have trained is trained again."""
    plan = plan_of(grid, "Grid.seeds=(0, 1)", "Grid.tasks=('walker2d-medium-expert-v2',)")
    assert [cell.id for cell in plan.cells if cell.label == label] == known


def test_a_file_that_stands_for_a_label_may_bring_its_own_budget() -> None:
    """Diffusion-QL's table 1: TD3+BC and IQL have the updates, batch and evaluations of their own papers."""
    reader = ConfigResolver([ROOT / "ablations" / "paper_table1.gin"], [EMBEDDED, "Grid.seeds=(0,)"])
    *_, (task, base) = reader.bases().items()
    names = [f"training.Training.{name}" for name in ("steps", "batch_size", "eval_every", "eval_episodes", "top_k")]

    def budget(label: str) -> list[int]:
        values, _ = reader.values(task, base, reader.grid.setting(label))
        return [values[name] for name in names]

    assert task == "walker2d-medium-expert-v2"
    assert budget("Diffusion-QL") == budget("BC") == [2_000_000, 256, 50_000, 10, 1]
    assert budget("TD3+BC") == budget("IQL") == [1_000_000, 256, 5_000, 10, 1]


def test_a_budget_that_labels_bring_is_not_overruled_in_silence() -> None:
    with pytest.raises(ConfigError, match="--set Training.steps sets what the grid varies"):
        ConfigResolver([ROOT / "ablations" / "paper_table1.gin"], [EMBEDDED, "Training.steps=10"])


def test_excluded_points_are_left_out(tmp_path: Path) -> None:
    text = (
        "Grid.axes = {'schedule': {'DiffusionPolicy.schedule': ('vp', 'linear')}, "
        "'N': {'DiffusionPolicy.n_timesteps': (2, 5)}}\nGrid.exclude = ({'schedule': 'linear', 'N': 2},)"
    )
    reader = ConfigResolver([grid_file(tmp_path, text)], [EMBEDDED])
    assert [s.label for s in reader.grid.settings] == [
        "schedule=vp, N=2",
        "schedule=vp, N=5",
        "schedule=linear, N=5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Grid.exclude = ({'M': 2},)", "Grid.exclude names the axis 'M'"),
        ("Grid.exclude = ({'N': 3},)", "Grid.exclude names '3' on the axis 'N'"),
        ("Grid.exclude = ({'N': 2}, {'N': 5})", "leaves nothing of the grid"),
        ("Grid.exclude = ('N=2',)", "must be a tuple of"),
        ("Grid.seeds = ()", "Grid.seeds must be"),
        ("Grid.hours = -1", "Grid.hours must be at least 0"),
        ("Grid.engine = 'locl'", "Unknown engine 'locl'"),
        ("DiffusionPolicy.denoiser = 'mpl'", r"Cell 'N=2' on walker2d-medium-expert-v2: Unknown denoiser 'mpl'"),
        ("Grid.tasks = ('walker2d-medium',)", "Unknown task 'walker2d-medium'"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(tmp_path: Path, text: str, message: str) -> None:
    path = grid_file(tmp_path, f"Grid.axes = {{'N': {{'DiffusionPolicy.n_timesteps': (2, 5)}}}}\n{text}")

    def plan() -> None:
        reader = ConfigResolver([path], [EMBEDDED])
        engines.get(reader.grid.engine)
        make_plan(reader)

    with pytest.raises(ConfigError, match=message):
        plan()


def test_a_binding_must_not_set_what_an_axis_varies() -> None:
    with pytest.raises(ConfigError, match=r"--set DiffusionPolicy.n_timesteps sets what the grid varies"):
        plan_of("steps", "DiffusionPolicy.n_timesteps=3")


def test_canonical_values_are_equal_where_runs_are() -> None:
    assert canonical_values({"b": 5, "a": (1, 2)}) == canonical_values({"a": [1.0, 2.0], "b": 5.0})
    assert json.dumps(canonical_values({"a": True})) != json.dumps(canonical_values({"a": 1}))
    assert list(canonical_values({"b": 1, "a": 1})) == ["a", "b"]
