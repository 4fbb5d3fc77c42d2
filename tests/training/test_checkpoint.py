"""Checkpoints: whole or not at all, loadable without running code; what is damaged or missing is named, and stays."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Run, bindings, refused
from made_packs import run_pack
from safetensors.torch import save, save_file

from dqlab.errors import RunError
from dqlab.tracking.run_folder import RunFolder
from dqlab.training import checkpoint


def test_round_trip(tmp_path: Path) -> None:
    """Tensors begin where new ones do: on some CPUs the last bits of a product depend on it, and a resumed run must
    give those of an unbroken one."""
    path, record = tmp_path / "c.safetensors", {"step": 3, "note": "naïve"}
    tensors = {"a": {"x.y": torch.arange(6.0).view(2, 3)}, "b": {"z": torch.tensor([1], dtype=torch.int64)}}
    tensors["odd"] = {str(size): torch.arange(float(size)) for size in (1, 3, 17, 1000)}
    checkpoint.write_checkpoint(path, tensors, record)
    groups, found = checkpoint.read_checkpoint(path)
    assert found == record
    torch.testing.assert_close(groups, tensors, rtol=0, atol=0)
    assert all(value.data_ptr() % 64 == 0 for named in groups.values() for value in named.values())
    assert [item.name for item in tmp_path.iterdir()] == ["c.safetensors"]


def test_checkpoints_of_earlier_versions_have_no_digest(tmp_path: Path) -> None:
    save_file({"a|x": torch.ones(2)}, tmp_path / "c.safetensors", metadata={"dqlab": '{"step": 3}'})
    groups, record = checkpoint.read_checkpoint(tmp_path / "c.safetensors")
    assert (record, groups["a"]["x"].tolist()) == ({"step": 3}, [1.0, 1.0])


NO_CHECKPOINT = "c.safetensors is not a dqlab checkpoint, or is damaged"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no checkpoint .*c.safetensors"),
        (b"\x80\x04garbage", NO_CHECKPOINT),
        (save({"a|x": torch.zeros(100)}, {"dqlab": '{"step": 3}'})[:200], NO_CHECKPOINT),
        (save({"x": torch.zeros(1)}), NO_CHECKPOINT),
    ],
    ids=["missing", "garbage", "truncated", "foreign"],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=said):
        checkpoint.read_checkpoint(tmp_path / "c.safetensors")


def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    """Tensors, their names and shapes, the record: a file is refused, or (in a pad, say) means what was written."""
    path, damaged = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
    tensors = {"a": {"x": torch.randn(3, 5), "y": torch.tensor([7])}, "b": {"z": torch.randn(4, dtype=torch.float64)}}
    checkpoint.write_checkpoint(path, tensors, {"step": 3, "score": 1.5})
    whole, refusals = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
        try:
            groups, record = checkpoint.read_checkpoint(damaged)
        except RunError:
            refusals += 1
            continue
        assert (record["step"], record["score"]) == (3, 1.5), bit
        assert all(torch.equal(groups[g][n], value) for g, named in tensors.items() for n, value in named.items()), bit
    assert refusals > 0.95 * 8 / 5 * len(whole)


FULL_DISK = """
import resource, signal, sys, pathlib, torch
from dqlab.training import checkpoint
from dqlab.errors import RunError
path = pathlib.Path(sys.argv[1])
checkpoint.write_checkpoint(path, {"a": {"x": torch.ones(10)}}, {"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.write_checkpoint(path, {"a": {"x": torch.ones(100_000)}}, {"step": 2})
except RunError as error:
    print(error)
"""


def test_no_room_for_a_checkpoint_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A real write that fails half-way: the process may write 4 KiB a file and no more."""
    path = tmp_path / "c.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert re.match(f"Cannot write {path}: .*--resume continues the run", done.stdout)
    groups, record = checkpoint.read_checkpoint(path)
    assert (record, len(groups["a"]["x"])) == ({"step": 1}, 10)
    assert [item.name for item in tmp_path.iterdir()] == ["c.safetensors"]


TRAIN = ("train", "--steps", "20", "-q", "--out", "run", "--resume")
GIN = ("--gin", str(ROOT / "gin" / "quickstart.gin"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 updates that was interrupted, as far as its record says."""
    run = tmp_path_factory.mktemp("trained") / "run"
    run_pack(run, {}, "Experiment.seeds = (0,)", "Training.steps = 20")
    RunFolder(run).write_facts(state="interrupted")
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.suffix != ".lock"}


@pytest.mark.parametrize("more", [[*GIN, *bindings()], []], ids=["with a gin file", "with its own"])
@pytest.mark.parametrize("missing", ["checkpoint.safetensors", "config.gin"])
def test_a_resume_that_misses_a_file(in_process: Run, run: Path, missing: str, more: list[str]) -> None:
    (run / missing).unlink()
    before = content(run)
    refused(in_process(*TRAIN, *more), f"The run in run has begun, and its {missing} is missing: it cannot go on")
    assert content(run) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins(run: Path) -> None:
    """run.json, config.gin and empty journals are written before it."""
    (run / "checkpoint.safetensors").unlink()
    (run / "seed-0" / "metrics.jsonl").write_text("")
    RunFolder(run).check(resume=True)


def test_a_resume_that_differs_says_what_differs(in_process: Run, run: Path) -> None:
    before = content(run)
    done = in_process(*TRAIN, *GIN, *bindings("DiffusionQL.eta=0.5", "Training.batch_size=16"))
    assert done.returncode == 2
    assert re.search(r"DiffusionQL\.eta: .*0\.5 now.*Training\.batch_size: .*16 now", done.stderr, re.DOTALL)
    assert content(run) == before


def test_a_damaged_checkpoint_is_no_checkpoint_at_any_door(in_process: Run, run: Path) -> None:
    """One bit in the middle of the tensors."""
    (snapshot,) = (run / "seed-0" / "checkpoints").glob("step-000000020.safetensors")
    for path in (run / "checkpoint.safetensors", snapshot):
        flipped = bytearray(path.read_bytes())
        flipped[-len(flipped) // 3] ^= 4
        path.write_bytes(flipped)
    before = {**content(run), "run.json": b""}
    for command, name in ((TRAIN, "checkpoint.safetensors"), (("eval", "run"), snapshot.name)):
        done = in_process(*command)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert f"{name} is damaged: its content is not what was written" in done.stderr
    assert {**content(run), "run.json": b""} == before
    assert "is damaged" in RunFolder(run).facts()["reason"]
