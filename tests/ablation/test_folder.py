"""A grid's folder: what is continued, what is tried again, what is found again, what is damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_folders import write_pack
from made_grids import made_result

from dqlab.ablation.driver import GridRequest, open_session
from dqlab.ablation.folder import GridFolder, collect_results
from dqlab.ablation.planning import ConfigResolver, Plan, PlannedPack, make_plan, pack_cells
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


def begin(folder: GridFolder, pack: PlannedPack, state: str = "running") -> None:
    """What a pack that has been trained for a while leaves behind."""
    write_pack(folder.packs / pack.id, list(pack.cells), state=state)
    for each in pack.cells:
        (folder.packs / pack.id / each.replica).mkdir(exist_ok=True)


def end(folder: GridFolder, pack: PlannedPack, cell: int, file: str) -> str:
    """One of its cells ends."""
    records = {"failure.json": {"kind": "diverged", "reason": "NaN"}}
    records["summary.json"] = dict(made_result(pack.cells[cell], 50.0).summary)
    (folder.packs / pack.id / pack.cells[cell].replica / file).write_text(json.dumps(records[file]))
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


def test_packs_that_have_begun_go_on_and_no_cell_is_in_two_of_them(folder: GridFolder, file: Path) -> None:
    plan, (wide, *_) = planned(file, width=4)
    _, narrow = planned(file, width=1)
    folder.write_plan(plan, [wide, *narrow])
    begin(folder, wide)
    begin(folder, narrow[0])
    assert list(folder.open_packs(ids([wide]))) == [wide.id]
    assert folder.open_packs(set()) == {}
    left = ids([wide]) - {wide.cells[0].id, wide.cells[1].id}
    assert folder.open_packs(left) == {}, "the others have ended elsewhere"
    for cell, name in enumerate(("summary.json", "failure.json")):
        end(folder, wide, cell, name)
    assert list(folder.open_packs(left)) == [wide.id]
    begin(folder, wide, state="finished")
    assert folder.open_packs(left) == {}


def test_what_force_and_retry_train_and_that_a_dry_run_touches_nothing(
    folder: GridFolder, file: Path, packs: list[PlannedPack]
) -> None:
    """Failures of packs under way are kept until these are over; a pack that is over is run afresh beside itself."""
    begin(folder, packs[0], "finished")
    begin(folder, packs[1], "running")
    end(folder, packs[0], 0, "summary.json")
    failed = [end(folder, packs[0], 1, "failure.json"), end(folder, packs[1], 0, "failure.json")]
    request = GridRequest([file], [EMBEDDED], [], folder.path)

    def to_train(**flags: bool) -> set[str]:
        return ids(open_session(replace(request, **flags), planning_only=True).packs)

    assert [len(to_train()), len(to_train(retry=True)), len(to_train(force=True))] == [1 + 1, 2 + 1, 4]
    assert [cell for cell, _ in folder.ended("failure.json")] == failed
    session = open_session(replace(request, retry=True))
    assert [cell for cell, _ in folder.ended("failure.json")] == failed[1:]
    assert session.packs[0].id == packs[1].id
    assert (folder.free_id(packs[0].id), folder.free_id(packs[1].id)) == (f"{packs[0].id}-2", packs[1].id)
    later = [replace(packs[0], id=f"{packs[0].id}-{number}") for number in (10, 2, 9)]
    for pack in later:
        begin(folder, pack)
        end(folder, pack, 0, "summary.json")
    assert later[0].id in str(dict(folder.ended("summary.json"))[packs[0].cells[0].id]), "the last attempt counts"


def test_a_pack_that_has_not_begun_is_configured_anew(folder: GridFolder, file: Path) -> None:
    plan, packs = planned(file, "Experiment.device='cpu'")
    folder.write_plan(plan, packs)
    begin(folder, packs[0])
    plan, again = planned(file, "Experiment.threads=3")
    moved = replace(again[0].kind, data=replace(again[0].kind.data, source="file:/moved"))
    folder.write_plan(plan, [replace(pack, kind=moved) for pack in again])
    begun, fresh = ((folder.packs / pack.id / "pack.gin").read_text() for pack in packs)
    assert "Experiment.threads = 3" in fresh
    assert "Experiment.device = 'cpu'" in begun
    assert "Experiment.threads" not in begun
    assert "data.load_dataset.sources = ('file:/moved',)\n" in begun


def test_a_driver_killed_while_planning_leaves_a_grids_folder(
    folder: GridFolder, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder.path.mkdir()
    (folder.path / ".grid.json.123.tmp").touch()
    storage = f"Grid.storage={str(file.parent / 'shared')!r}"
    session = open_session(GridRequest([file], [EMBEDDED, storage], [], folder.path))
    assert session.folder.packs.is_symlink()
    folder.check("made")
    assert tracking_uri(folder.path) == store_uri(folder.path.parent / "mlflow.db")
    with pytest.raises(RunError, match="is in use by another run"):
        GridFolder(folder.path).lock()


def test_results_are_collected_from_the_folder_alone(folder: GridFolder, file: Path, packs: list[PlannedPack]) -> None:
    for pack in packs:
        begin(folder, pack)
    found = [end(folder, packs[0], 0, "summary.json"), end(folder, packs[0], 1, "summary.json")]
    end(folder, packs[1], 0, "failure.json")
    text = "Experiment.algorithm = 'diffusion_ql'\nExperiment.seeds = (0,)\nExperiment.action_chunk = 1\n"
    (folder.packs / packs[0].id / "config.gin").write_text(text)
    facts = {"axes": {"eta": ["0.5", "1.0"]}, "base": "eta=0.5", "tasks": [packs[0].kind.task], "seeds": [0, 1]}
    facts |= {"gin": GRID.partition("gin'\n")[2], "packs": [pack.id for pack in packs], "cells": 4, "seconds": 5.0}
    folder.write_facts(**facts, crashed={packs[1].cells[1].id: "killed by SIGKILL"})
    file.unlink()
    results = collect_results(folder)
    assert [result.cell.id for result in results.results] == found
    failures = [(each.failure, each.reason) for each in results.failures]
    assert failures == [("diverged", "NaN"), ("crashed", "killed by SIGKILL")]
    assert (results.pending, results.labels, results.seeds) == ((), ("eta=0.5", "eta=1.0"), (0, 1))
    assert results.facts["seconds"] == 5.0
    config = {"Experiment.algorithm": "diffusion_ql", "Experiment.action_chunk": 1}
    assert results.configs == {packs[0].kind.task: {packs[0].cells[0].label: config}}
    (folder.packs / packs[0].id / "config.gin").write_text("a = (")
    assert collect_results(folder).configs == {packs[0].kind.task: {}}
    assert results.components[0].name == "diffusion_ql"


def test_packs_lie_in_a_storage_that_all_machines_see(folder: GridFolder, tmp_path: Path) -> None:
    folder.write_facts(name="made")
    for storage in (str(tmp_path / "shared"), str(tmp_path / "shared"), ""):  # the same command again
        folder.place_packs(storage)
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


def test_damaged_files_are_named_with_a_way_out(folder: GridFolder, packs: list[PlannedPack]) -> None:
    read = {"plan.json": folder.listed, "grid.json": folder.facts}
    for name, text in (("plan.json", "{"), ("plan.json", "[]"), ("plan.json", "{}"), ("grid.json", "[]")):
        whole = (folder.path / name).read_text()
        (folder.path / name).write_text(text)
        with pytest.raises(RunError, match=rf"{name} is damaged.* Delete it"):
            read[name]()
        (folder.path / name).unlink()
        folder.check("made")
        (folder.path / name).write_text(whole)
