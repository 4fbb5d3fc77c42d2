"""Plans: cells are known by what they run, and packed where they may be."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from dqlab.ablation import planning
from dqlab.ablation.planning import ConfigResolver, Plan, canonical, make_plan, pack_cells, pack_sizes
from dqlab.config import gin_files
from dqlab.config.gin_state import operative_parameters
from dqlab.errors import ConfigError
from dqlab.runs import Experiment
from dqlab.runs.experiment import check_experiment

EMBEDDED = "load_dataset.sources=('embedded',)"
BY_NAME = "load_dataset.sources=('embedded:walker2d-medium-expert-mini',)"
FILES = sorted((ROOT / "ablations").glob("*.gin"))


@cache
def plan_of(name: str, *bindings: str) -> Plan:
    return make_plan(ConfigResolver([ROOT / "ablations" / f"{name}.gin"], [EMBEDDED, *bindings]))


def ids(plan: Plan) -> dict[tuple[str, int], str]:
    return {(cell.label, cell.seed): cell.id for cell in plan.cells}


def everything(plan: Plan) -> set[str]:
    return {cell.id for cell in plan.cells}


def grid_file(folder: Path, text: str) -> Path:
    path = folder / "made.gin"
    path.write_text(f"include 'gin/diffql_walker2d.gin'\n{text}\n")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_plan_goes_by_what_building_every_cell_reads(path: Path) -> None:
    """Every setting of every shipped grid builds, updates and acts, and reads exactly the values that the plan goes by.

    No two settings run the same, and so all cells have ids of their own.
    """
    reader = ConfigResolver([path], [BY_NAME, "Grid.tasks=()", "Grid.seeds=(0, 1)"])
    plan, texts = make_plan(reader), set()
    ((task, base),) = reader.bases().items()
    for setting in reader.grid.settings:
        planned, _ = reader.values(task, base, setting)
        reader.load(task, setting.as_text())
        check_experiment(Experiment())
        built = {name: value for name, value in operative_parameters().items() if name in planned}
        assert {name: planned[name] for name in built} == built
        unread = {name for name in set(planned) - set(built) if not name.startswith(("data.", "reward_transform."))}
        assert unread <= {reader.name(name) for name in setting.bindings} | {"early_stop", "offline_rule"}
        texts.add(gin_files.operative_text(reader.loaded).replace(repr(setting.label), ""))
    assert len(texts) == len(reader.grid.settings) >= 2
    assert len(everything(plan)) == len(plan.cells) == 2 * len(texts)


def test_a_cell_has_the_same_id_in_every_grid_that_has_it() -> None:
    steps, eta = ids(plan_of("steps")), ids(plan_of("eta"))
    assert steps["N=5", 3] == eta["eta=1.0", 3]
    assert steps["N=5", 3] != steps["N=5", 2]
    shared = set(steps.values()) & set(eta.values())
    assert len(shared) == 5  # the base experiment's five seeds


def test_cells_of_earlier_versions_are_known() -> None:
    """By their ids, or everything that they have trained is trained again."""
    known = {
        ("steps", "N=2"): ["cd8a92d9f4b5b769", "3ae847c03b9143cd"],
        ("samplers", "DDPM, 20 steps"): ["b8e01f9db7a0aad2", "31a9b7bfc2047d8d"],
    }
    for (grid, label), wanted in known.items():
        found = ids(plan_of(grid, "Grid.seeds=(0, 1)", "Grid.tasks=('walker2d-medium-expert-v2',)"))
        assert [found[label, seed] for seed in (0, 1)] == wanted


INERT = """
Experiment.device='cpu' Experiment.threads=2 Experiment.env_backend='gymnasium' Training.execution='eager'
Training.checkpoint_seconds=1.0 Tracking.mlflow=False GaussianQL.grad_norm=1.0 BehaviourCloning.learning_rate=1e-3
DiffusionQL.eta=1 DiffusionQL.backup_candidates=10
"""
TELLING = """
Training.steps=10 Training.eval_episodes=3 Training.early_stop='patience' DiffusionQL.eta=1.5
DiffusionQL.selection='single' MLPDenoiser.hidden_dim=32 Experiment.dtype='float64'
load_dataset.sources=('embedded:hopper-medium-expert-mini',) load_dataset.reward_transform='standardise'
"""


def test_what_changes_results_changes_every_id_and_nothing_else_does() -> None:
    plain = plan_of("steps")
    assert ids(plan_of("steps", *INERT.split())) == ids(plain)
    for binding in TELLING.split():
        assert not everything(plan_of("steps", binding)) & everything(plain), binding


def test_a_benchmarks_own_parameters_are_its_cells_own() -> None:
    """Also where its tasks come after others, which do not read them."""
    mixed = "Grid.tasks=('walker2d-medium-expert-v2', 'antmaze-umaze-v0')"
    found = [plan_of("eta", BY_NAME, mixed, *law).cells for law in ((), ("AntMaze.goal_law='per_episode'",))]
    for task, same in (("walker2d-medium-expert-v2", True), ("antmaze-umaze-v0", False)):
        one, other = ({cell.id for cell in cells if cell.task == task} for cells in found)
        assert (len(one), one == other, bool(one & other)) == (30, same, same)


def sizes(plan: Plan, width: int) -> list[int]:
    packs = pack_cells(plan, everything(plan), lambda kind: width)
    assert sorted(cell.id for pack in packs for cell in pack.cells) == sorted(everything(plan))
    return [len(pack.cells) for pack in packs]


def test_seeds_and_scalars_share_a_pack_shapes_do_not() -> None:
    assert sizes(plan_of("eta"), 64) == [30]  # six values of eta, five seeds
    assert sizes(plan_of("steps"), 64) == [5, 5, 5, 5]
    assert sizes(plan_of("eta"), 8) == [8, 7, 7, 8]
    assert sizes(plan_of("steps"), 4) == [2, 3] * 4


def test_packs_for_a_gpu_are_as_large_as_their_numbers_let_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no GPU here, by what one elsewhere is taken to have; float64 takes twice the room."""
    path = grid_file(tmp_path, "Grid.axes = {'eta': {'DiffusionQL.eta': (0.5, 1.0)}}")
    monkeypatch.setattr(planning, "GPU_ELSEWHERE", 2**25)

    def width(*bindings: str, limit: int = 0) -> int:
        device = [*TINY, "Experiment.device='cuda'", "Training.batch_size=64"]
        plan = make_plan(ConfigResolver([path], [*device, *bindings]))
        return pack_sizes(limit, cells=1000, slots=1)(next(iter(plan.kinds.values())))

    single, double = width(), width("Experiment.dtype='float64'", "Experiment.device='cuda:0'")
    assert 2 < single < 64
    assert double == pytest.approx(single / 2, abs=1)
    assert width(limit=7) == 7
    assert width("Experiment.device='cpu'") == 8


def test_settings_that_run_the_same_are_trained_once(tmp_path: Path) -> None:
    path = grid_file(tmp_path, "Grid.axes = {'eta': {'one': {'DiffusionQL.eta': 1.0}, 'paper': {}}}")
    plan = make_plan(ConfigResolver([path], [EMBEDDED]))
    assert plan.same == [("one", "paper")]
    assert len(plan.cells) == 10
    assert sizes(plan, 64) == [5]


def test_every_task_has_its_own_values() -> None:
    two = "('walker2d-medium-expert-v2', 'hopper-medium-v2')"
    plan = plan_of("paper_figure3", "Grid.seeds=(0,)", f"Grid.tasks={two}")
    texts = {kind.task: kind.text for kind in plan.kinds.values()}
    assert "algorithm.DiffusionQL.grad_norm = 5.0\n" in texts["walker2d-medium-expert-v2"]
    own = ("training.Training.top_k = 2", "algorithm.DiffusionQL.grad_norm = 9.0", "training.Training.steps = 2000000")
    assert all(f"{line}\n" in texts["hopper-medium-v2"] for line in own)


def test_a_file_stands_for_a_label_without_what_holds_for_the_grid(tmp_path: Path) -> None:
    label = tmp_path / "label.gin"
    label.write_text("include 'gin/td3_bc_walker2d.gin'\nExperiment.task = 'x'\nTraining.steps = 3\nReport.reps = 5\n")
    path = grid_file(tmp_path, f"Grid.axes = {{'algorithm': {{'ours': {{}}, 'TD3+BC': '{label}'}}}}")
    plan = make_plan(ConfigResolver([path], [EMBEDDED, "Training.steps=77"]))
    cell, text = plan.cells[-1], plan.kinds[plan.cells[-1].kind].text
    assert (cell.task, cell.scalars["algorithm.TD3BC.alpha"]) == ("walker2d-medium-expert-v2", 2.5)
    assert "training.Training.steps = 77\n" in text
    assert "data.load_dataset.standardise_states = True\n" in text
    assert "reps" not in text


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


def test_what_a_label_sets_is_not_overruled_in_silence() -> None:
    with pytest.raises(ConfigError, match="--set Training.steps sets what the grid varies"):
        ConfigResolver([ROOT / "ablations" / "paper_table1.gin"], [EMBEDDED, "Training.steps=10"])


def test_canonical_values_are_equal_where_runs_are() -> None:
    assert canonical({"b": 5, "a": (1, 2)}) == canonical({"a": [1.0, 2.0], "b": 5.0})
    assert json.dumps(canonical({"a": True})) != json.dumps(canonical({"a": 1}))


def test_a_papers_tasks_run_what_their_own_files_say() -> None:
    """Though they are read after a file that has read what they include."""
    reader = ConfigResolver([ROOT / "ablations" / "paper_table1_others.gin"])
    (setting, *_) = reader.grid.settings
    for task, base in reader.bases().items():
        planned, _ = reader.values(task, base, setting)
        gin_files.load_gin([ROOT / "gin" / "paper" / f"{task}.gin"])
        check_experiment(Experiment())
        own = {name: value for name, value in operative_parameters().items() if name in planned}
        assert {name: planned[name] for name in own} == own, task
