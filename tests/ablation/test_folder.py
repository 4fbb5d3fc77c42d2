"""A grid's folder: what is continued, what is tried again, what is found again, what is damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_folders import write_pack
from made_grids import made_result

from dqlab.ablation.config_resolver import ConfigResolver
from dqlab.ablation.driver import GridRequest, open_session
from dqlab.ablation.folder import GridFolder
from dqlab.ablation.planning import Plan, PlannedPack, make_plan, pack_cells
from dqlab.ablation.report import collect_results
from dqlab.analysis.results import Cell
from dqlab.errors import RunError
from dqlab.tracking.mlflow.client import store_uri, tracking_uri

EMBEDDED = "load_dataset.sources=('embedded',)"
GRID = """
include 'gin/diffql_walker2d.gin'
Grid.axes = {'eta': {'DiffusionQL.eta': (0.5, 1.0)}}
Grid.seeds = (0, 1)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.gin"
    path.write_text(GRID)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> GridFolder:
    return GridFolder(tmp_path / "grid")


def planned(file: Path, *bindings: str, width: int = 2) -> tuple[Plan, list[PlannedPack]]:
    plan = make_plan(ConfigResolver([file], [EMBEDDED, *bindings]))
    return plan, pack_cells(plan, {each.id for each in plan.cells}, lambda kind: width)


def begin(folder: GridFolder, pack: PlannedPack, state: str = "running", recorded: int = 1) -> None:
    """What a pack that has been trained for a while leaves behind."""
    path = folder.packs / pack.id
    write_pack(path, list(pack.cells), state=state)
    for each in pack.cells:
        (path / each.replica).mkdir(exist_ok=True)
        (path / each.replica / "metrics.jsonl").write_text("{}\n" * recorded)


def end(folder: GridFolder, pack: PlannedPack, cell: int, file: str) -> str:
    """One of its cells ends."""
    known = {"kind": "diverged", "reason": "NaN"} if file.startswith("failure") else {"selection": {}}
    (folder.packs / pack.id / pack.cells[cell].replica / file).write_text(json.dumps(known))
    return pack.cells[cell].id


@pytest.fixture
def packs(folder: GridFolder, file: Path) -> list[PlannedPack]:
    """The grid's packs, in its folder."""
    folder.write_facts(name="made")
    plan, packs = planned(file)
    folder.write_plan(plan, packs)
    return packs


def ids(packs: Sequence[PlannedPack]) -> set[str]:
    return {each.id for pack in packs for each in pack.cells}


@pytest.mark.parametrize("file_name", ["summary.json", "failure.json"])
def test_a_pack_of_which_a_cell_has_ended_goes_on_with_the_others(
    folder: GridFolder, packs: list[PlannedPack], file_name: str
) -> None:
    begin(folder, packs[0])
    assert folder.open_packs({packs[0].cells[1].id}) == {}  # the other one has ended elsewhere
    ended = end(folder, packs[0], 0, file_name)
    assert list(folder.open_packs(ids(packs) - {ended})) == [packs[0].id]
    assert folder.open_packs(set()) == {}
    begin(folder, packs[0], state="finished")
    assert folder.open_packs(ids(packs) - {ended}) == {}


def test_no_cell_is_in_two_packs_that_go_on(folder: GridFolder, file: Path) -> None:
    plan, (wide, *_) = planned(file, width=4)
    _, narrow = planned(file, width=1)
    folder.write_plan(plan, [wide, *narrow])
    begin(folder, wide, recorded=1)
    begin(folder, narrow[0], recorded=5)
    assert list(folder.open_packs(ids([wide]))) == [narrow[0].id]  # it has come further
    begin(folder, wide, recorded=9)
    assert list(folder.open_packs(ids([wide]))) == [wide.id]


def test_failures_of_packs_under_way_are_kept_until_these_are_over(
    folder: GridFolder, packs: list[PlannedPack]
) -> None:
    failed = []
    for pack, state in zip(packs, ("running", "finished"), strict=True):
        begin(folder, pack, state)
        failed.append(end(folder, pack, 0, "failure.json"))
    assert set(dict(folder.ended("failure.json"))) == set(failed)
    folder.forget_failures()
    assert set(dict(folder.ended("failure.json"))) == {failed[0]}
    assert folder.free_id(packs[1].id) == f"{packs[1].id}-2"
    assert folder.free_id(packs[0].id) == packs[0].id


def test_later_attempts_come_after_earlier_ones(folder: GridFolder, file: Path) -> None:
    plan, packs = planned(file)
    attempts = [packs[0].id, *(f"{packs[0].id}-{number}" for number in (2, 9, 10))]
    for number, name in enumerate(attempts):
        pack = replace(packs[0], id=name)
        folder.write_plan(plan, [pack])
        begin(folder, pack)
        (folder.packs / name / packs[0].cells[0].replica / "summary.json").write_text(str(number))
    assert dict(folder.ended("summary.json"))[packs[0].cells[0].id].read_text() == "3"


def test_a_pack_that_has_not_begun_is_configured_anew(folder: GridFolder, file: Path) -> None:
    plan, packs = planned(file, "Experiment.device='cpu'")
    folder.write_plan(plan, packs)
    begin(folder, packs[0])
    plan, again = planned(file, "Experiment.threads=3")
    moved = [
        replace(pack, kind=replace(pack.kind, data=replace(pack.kind.data, source="file:/moved"))) for pack in again
    ]
    folder.write_plan(plan, moved)
    begun, fresh = ((folder.packs / pack.id / "pack.gin").read_text() for pack in packs)
    assert "Experiment.threads = 3" in fresh
    assert "Experiment.device = 'cpu'" in begun
    assert "Experiment.threads" not in begun
    assert "data.load_dataset.sources = ('file:/moved',)\n" in begun


def test_a_driver_killed_while_planning_leaves_a_grids_folder(
    folder: GridFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder.path.mkdir()
    (folder.path / ".grid.json.123.tmp").touch()
    folder.check()
    folder.write_facts(name="made")
    (folder.path / "packs").mkdir()
    folder.check()
    assert tracking_uri(folder.path) == store_uri(folder.path.parent / "mlflow.db")
    folder.lock()
    with pytest.raises(RunError, match="is in use by another run"):
        GridFolder(folder.path).lock()


def test_a_driver_killed_before_its_plan_is_written_may_be_started_again(folder: GridFolder, file: Path) -> None:
    storage = f"Grid.storage={str(file.parent / 'shared')!r}"
    session = open_session(GridRequest([file], [EMBEDDED, storage], [], folder.path))
    assert session.folder.packs.is_symlink()
    folder.check("made")


def test_a_dry_run_shows_what_force_and_retry_would_do(
    folder: GridFolder, file: Path, packs: list[PlannedPack]
) -> None:
    for pack in packs:
        begin(folder, pack, "finished")
    end(folder, packs[0], 0, "summary.json")
    end(folder, packs[0], 1, "failure.json")
    request = GridRequest([file], [EMBEDDED], [], folder.path)

    def to_train(**flags: bool) -> int:
        return len(ids(open_session(replace(request, **flags), planning_only=True).packs))

    assert (to_train(), to_train(retry=True), to_train(force=True)) == (2, 3, 4)
    assert list(folder.ended("failure.json"))
    assert list(folder.ended("summary.json"))


def finished_grid(folder: GridFolder, file: Path) -> list[Cell]:
    """A grid of which two cells have results, one has failed, and one has crashed."""
    plan, packs = planned(file)
    for pack in packs:
        begin(folder, pack)
    cells = [cell for pack in packs for cell in pack.cells]
    for cell in cells[:2]:
        place = next(folder.packs.glob(f"*/{cell.replica}"))
        (place / "summary.json").write_text(json.dumps(made_result(cell, 50.0).summary))
    next(folder.packs.glob(f"*/{cells[2].replica}")).joinpath("failure.json").write_text(
        json.dumps({"kind": "diverged", "reason": "NaN"})
    )
    facts = {"name": "made", "axes": {"eta": ["0.5", "1.0"]}, "base": "eta=0.5", "tasks": [cells[0].task]}
    facts |= {"seeds": [0, 1], "gin": file.read_text().partition("\n")[2], "packs": [pack.id for pack in packs]}
    folder.write_facts(**facts, cells=4, seconds=5.0, crashed={cells[3].id: "killed by SIGKILL"})
    folder.write_plan(plan, packs)
    return cells


def test_results_are_collected_from_the_folder_alone(folder: GridFolder, file: Path) -> None:
    cells = finished_grid(folder, file)
    file.unlink()
    results = collect_results(folder)
    assert [result.cell.id for result in results.results] == [cell.id for cell in cells[:2]]
    assert [(each.failure, each.reason) for each in results.failures] == [
        ("diverged", "NaN"),
        ("crashed", "killed by SIGKILL"),
    ]
    assert (results.pending, results.labels, results.seeds) == ((), ("eta=0.5", "eta=1.0"), (0, 1))
    assert results.facts["seconds"] == 5.0
    assert results.components[0].name == "diffusion_ql"


def test_packs_lie_in_a_storage_that_all_machines_see(folder: GridFolder, tmp_path: Path) -> None:
    folder.write_facts(name="made")
    folder.place_packs(str(tmp_path / "shared"))
    folder.place_packs(str(tmp_path / "shared"))  # the same command again
    folder.place_packs("")
    (place,) = (tmp_path / "shared").iterdir()
    (folder.packs / "a").mkdir()
    assert (place / "a").is_dir()
    with pytest.raises(RunError, match=r"packs has packs already, outside of .*other\. Leave --storage off"):
        folder.place_packs(str(tmp_path / "other"))
    (tmp_path / "shared").rename(tmp_path / "gone")
    with pytest.raises(RunError, match=r"packs is a link to .*, which is not here\. Mount it again"):
        folder.check("made")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"Cannot make .*file.*Choose another --storage"):
        GridFolder(tmp_path / "new").place_packs(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "text"), [("plan.json", "{"), ("plan.json", "[]"), ("plan.json", "{}"), ("grid.json", "[]")]
)
def test_damaged_files_are_named_with_a_way_out(
    folder: GridFolder, packs: list[PlannedPack], name: str, text: str
) -> None:
    (folder.path / name).write_text(text)
    with pytest.raises(RunError, match=rf"{name} is damaged.* Delete it"):
        folder.listed() if name == "plan.json" else folder.facts()
    (folder.path / name).unlink()
    folder.check("made")
    assert folder.listed() == ({} if name == "plan.json" else {pack.id: [c.id for c in pack.cells] for pack in packs})
