"""Checkpoints: whole or not at all, loadable without running code, damage named."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dqlab.errors import RunError
from dqlab.training import checkpoint


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    tensors = {"a": {"x.y": torch.arange(6.0).view(2, 3)}, "b": {"z": torch.tensor([1], dtype=torch.int64)}}
    checkpoint.write_checkpoint(path, tensors, {"step": 3, "note": "naïve"})
    groups, record = checkpoint.read_checkpoint(path)
    assert record == {"step": 3, "note": "naïve"}
    assert torch.equal(groups["a"]["x.y"], tensors["a"]["x.y"])
    assert groups["b"]["z"].dtype == torch.int64
    assert [item.name for item in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.write_checkpoint(path, {"a": {"x": torch.zeros(100)}}, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "garbage":
        path.write_bytes(b"\x80\x04garbage")
    else:
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="not a dqlab checkpoint, or is damaged"):
        checkpoint.read_checkpoint(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "no.safetensors")


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
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "c.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert "Cannot write" in done.stdout
    assert "--resume continues the run" in done.stdout
    groups, record = checkpoint.read_checkpoint(path)
    assert record == {"step": 1}
    assert len(groups["a"]["x"]) == 10
    assert [item.name for item in tmp_path.iterdir()] == ["c.safetensors"]


def test_tensors_begin_where_new_ones_do(tmp_path: Path) -> None:
    """On some CPUs the last bits of a product depend on it, and a resumed run must give those of an unbroken one."""
    odd = {"group": {str(size): torch.arange(float(size)) for size in (1, 3, 17, 1000)}}
    checkpoint.write_checkpoint(tmp_path / "odd.safetensors", odd, {})
    tensors, _ = checkpoint.read_checkpoint(tmp_path / "odd.safetensors")
    assert all(value.data_ptr() % 64 == 0 for value in tensors["group"].values())
    assert all(torch.equal(value, odd["group"][name]) for name, value in tensors["group"].items())


def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    """Tensors, their names and shapes, the record: a file is refused, or (in a pad, say) means what was written."""
    path, damaged = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
    tensors = {"a": {"x": torch.randn(3, 5), "y": torch.tensor([7])}, "b": {"z": torch.randn(4, dtype=torch.float64)}}
    checkpoint.write_checkpoint(path, tensors, {"step": 3, "score": 1.5})
    whole, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
        try:
            groups, record = checkpoint.read_checkpoint(damaged)
        except RunError:
            refused += 1
            continue
        assert (record["step"], record["score"]) == (3, 1.5), bit
        assert all(torch.equal(groups[g][n], value) for g, named in tensors.items() for n, value in named.items()), bit
    assert refused > 0.95 * 8 / 5 * len(whole)


def test_checkpoints_of_earlier_versions_have_no_digest(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a|x": torch.ones(2)}, tmp_path / "c.safetensors", metadata={"dqlab": '{"step": 3}'})
    groups, record = checkpoint.read_checkpoint(tmp_path / "c.safetensors")
    assert (record, groups["a"]["x"].tolist()) == ({"step": 3}, [1.0, 1.0])
