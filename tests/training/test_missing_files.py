"""A resume, or an evaluation, of a run whose files are missing or damaged is refused; nothing is overwritten."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Run, bindings, refused
from made_packs import CELLS, run_pack

from dqlab.errors import RunError
from dqlab.tracking.run_folder import RunFolder

TRAIN = ("train", "--steps", "20", "-q", "--out", "run")
GIN = ("--gin", str(ROOT / "gin" / "quickstart.gin"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 updates that was interrupted, as far as its record says."""
    run = tmp_path_factory.mktemp("trained") / "run"
    run_pack(run, {}, "Experiment.seeds = (0,)", "Training.steps = 20")
    RunFolder(run).write_facts(state="interrupted")
    return run


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.suffix != ".lock"}


def flip(path: Path) -> None:
    """One bit in the middle of the tensors."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("door", ["with a gin file", "with its own"])
@pytest.mark.parametrize("missing", ["checkpoint.safetensors", "config.gin"])
def test_a_resume_that_misses_a_file(in_process: Run, trained: Path, tmp_path: Path, missing: str, door: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / missing).unlink()
    before = content(run)
    more = [*GIN, *bindings()] if door == "with a gin file" else []
    said = f"dqlab: error: The run in run has begun, and its {missing} is missing: it cannot go on"
    refused(in_process(*TRAIN, "--resume", *more), said)
    assert content(run) == before


def test_a_resume_that_differs_says_what_differs(in_process: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = content(run)
    done = in_process(*TRAIN, "--resume", *GIN, *bindings("DiffusionQL.eta=0.5", "Training.batch_size=16"))
    assert done.returncode == 2
    assert re.search(r"DiffusionQL\.eta: .*0\.5 now.*Training\.batch_size: .*16 now", done.stderr, re.DOTALL)
    assert content(run) == before


def test_a_damaged_checkpoint_is_no_checkpoint_at_any_door(in_process: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (snapshot,) = (run / "seed-0" / "checkpoints").glob("step-000000020.safetensors")
    flip(run / "checkpoint.safetensors")
    flip(snapshot)
    before = {**content(run), "run.json": b""}
    for command, name in (((*TRAIN, "--resume"), "checkpoint.safetensors"), (("eval", "run"), snapshot.name)):
        done = in_process(*command)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert f"{name} is damaged: its content is not what was written" in done.stderr
    assert {**content(run), "run.json": b""} == before
    assert "is damaged" in RunFolder(run).facts()["reason"]


def test_a_run_that_was_killed_before_its_first_record_begins(trained: Path, tmp_path: Path) -> None:
    """run.json, config.gin and empty journals are written before the first checkpoint."""
    run = tmp_path / "run"
    (run / "seed-0").mkdir(parents=True)
    for name in ("run.json", "config.gin"):
        shutil.copy(trained / name, run)
    (run / "seed-0" / "metrics.jsonl").touch()
    RunFolder(run).check(resume=True)


def test_a_pack_that_misses_its_checkpoint(tmp_path: Path) -> None:
    """A worker always resumes."""
    run_pack(tmp_path / "pack", CELLS, "Training.steps = 20")
    RunFolder(tmp_path / "pack").write_facts(state="running")
    (tmp_path / "pack" / "checkpoint.safetensors").unlink()
    with pytest.raises(RunError, match="checkpoint.safetensors is missing"):
        run_pack(tmp_path / "pack", CELLS, "Training.steps = 20", resume=True)
    assert json.loads((tmp_path / "pack" / "cell-a" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20
