"""Folders kept the same on two machines: what arrives belongs together, whenever it is looked at, whatever breaks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dqlab.ablation.engines.ray_node import CheckpointStore, Receiver, Sender, SupersededError, scan_folder

WRITER = """
import json, sys
from pathlib import Path
from dqlab.files import write_text
folder = Path(sys.argv[1])
step = 0
while True:
    step += 1
    with (folder / "metrics.jsonl").open("a") as journal:
        journal.write(json.dumps({"step": step}) + "\\n")
    write_text(folder / "a" / f"step-{step}.txt", str(step))
    write_text(folder / "checkpoint.safetensors", json.dumps({"step": step}))
    if step % 50 == 0:
        print(step, flush=True)
        sys.stdin.readline()
"""


def consistent(folder: Path) -> int:
    """The step of a folder's checkpoint, whose records and snapshots must all be there."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    step = int(json.loads(path.read_text())["step"])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines[:step]] == list(range(1, step + 1))
    assert all((folder / "a" / f"step-{number}.txt").exists() for number in range(1, step + 1))
    return step


class Watched(Receiver):
    """Looks at the folder after every single file that is put into place, as if the driver had died there."""

    def commit(self, names: Sequence[str], gone: Sequence[str]) -> None:
        for name in names:
            place = self._folder / name
            place.parent.mkdir(exist_ok=True)
            (self._incoming / name).replace(place)
            consistent(self._folder)
        super().commit([], gone)


def test_what_arrives_belongs_together_while_it_is_written(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir(), far.mkdir()
    receiver = Watched(far)
    sender = Sender(near, receiver.stage, receiver.commit)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(near)], stdin=-1, stdout=-1, text=True)
    assert writer.stdin is not None
    assert writer.stdout is not None
    steps = []
    try:
        for _ in range(4):
            sender.send()  # while it is written: may come to nothing, never to something torn
            steps.append(consistent(far))
            assert writer.stdout.readline()
            assert sender.send()
            steps.append(consistent(far))
            writer.stdin.write("\n")
            writer.stdin.flush()
            time.sleep(0.02)
    finally:
        writer.kill()
        writer.wait()
    assert sender.send()
    assert scan_folder(far).keys() == scan_folder(near).keys()
    assert steps == sorted(steps)
    assert steps[-1] >= 200


def test_only_what_changed_is_sent_and_what_is_gone_goes(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    (near / "a").mkdir(parents=True), far.mkdir()
    (near / "a" / "old").write_text("old"), (near / "known").write_text("known")
    (far / "a").mkdir(), (far / "a" / "old").write_text("old"), (far / "of-the-driver").write_text("hers")
    receiver, sent = Receiver(far), []
    sender = Sender(near, lambda name, content: (sent.append(name), receiver.stage(name, content))[1], receiver.commit)
    (near / "a" / "new").write_text("new"), (near / "a" / "old").unlink()
    (near / ".hidden.tmp").write_text("x"), (near / "run.lock").write_text("1")
    assert sender.send()
    assert sent == ["a/new"]
    assert sorted(scan_folder(far)) == ["a/new", "of-the-driver"]
    assert sender.send()
    assert sent == ["a/new"]


def test_an_attempt_that_was_given_up_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "pack.gin").write_text("steps = 1")
    vault = CheckpointStore({"a": tmp_path})
    first = vault.begin("a")
    vault.stage("a", first, "x.txt", b"of the first")
    second = vault.begin("a")
    for method, arguments in (
        ("asked", ()),
        ("fetch", ("pack.gin",)),
        ("hear", ({"event": "saved"},)),
        ("stage", ("x.txt", b"late")),
        ("commit", (["x.txt"], ["pack.gin"])),
    ):
        with pytest.raises(SupersededError, match="attempt 1 at a was given up"):
            getattr(vault, method)("a", first, *arguments)
    assert vault.drain() == []
    vault.stage("a", second, "x.txt", b"of the second")
    vault.commit("a", second, ["x.txt"], [])
    assert (tmp_path / "x.txt").read_bytes() == b"of the second"
    assert sorted(scan_folder(tmp_path)) == ["pack.gin", "x.txt"]


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(ValueError, match="no file inside"):
        Receiver(tmp_path / "inside").stage("../../outside.txt", b"x")
