"""Downloads from a real local HTTP server: whole, slow, broken off, resumed, changed, wrong, absent, disk full."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import serving

from dqlab.data import load_dataset
from dqlab.data.download import BrokenError, UnavailableError, download, hugging_face_address
from dqlab.data.formats.base import HDF5_MAGIC
from dqlab.data.formats.ogbench import ogbench
from dqlab.data.locate import list_datasets, report_findings
from dqlab.data.sources import d4rl_cache, d4rl_download
from dqlab.envs import tasks
from dqlab.envs.tasks import D4RL, OGBENCH
from dqlab.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = CONTENT[::-1]
NOWHERE = "http://127.0.0.1:9/"
REVISION = "8e7f4278a635a75338f0f1dc0e8f029d61503c4b"
WALKER = tasks.get("walker2d-medium-v2")
SMALL = replace(WALKER, rows=60)
"""The walker's task, if D4RL's file had so many rows."""


@dataclass
class Site:
    """A server of one file, and how it misbehaves; below `/silent/` it falls silent."""

    content: bytes = CONTENT
    tag: str = '"one"'
    break_after: int | None = None  # bytes
    slices: float = 0.0  # seconds between pieces
    piece: int = 1 << 16
    status: int = 200
    to: str = ""  # where it redirects to
    announced: int | None = None  # bytes that it says there are
    deaf: bool = False  # to `If-Range`
    shift: int = 0  # of what is sent, against what was asked for
    ranges: list[str | None] = field(default_factory=list)  # that were asked for
    paths: list[str] = field(default_factory=list)
    root: str = ""

    @property
    def url(self) -> str:
        return f"{self.root}/set.hdf5"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        self.paths.append(request.path)
        if self.status != 200:
            return request.send_error(self.status)
        if self.to and request.path != self.to:
            request.send_response(302)
            request.send_header("Location", self.to)
            return request.end_headers()
        body, start = self.content, 0
        if wanted and (self.deaf or request.headers.get("If-Range") == self.tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-")) - self.shift
            body = self.content[start:]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(self.announced or len(body)))
        request.send_header("ETag", self.tag)
        request.end_headers()
        silent = request.path.startswith("/silent/")
        body = body[: 200_000 if silent else self.break_after]
        for start in range(0, len(body), self.piece):
            request.wfile.write(body[start : start + self.piece])
            time.sleep(self.slices)
        request.wfile.flush()
        time.sleep(2.0 if silent else 0.0)
        request.close_connection = True
        return None


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # who asked has gone
                site.answer(self)

    with serving(Handler) as site.root:
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "set.hdf5"


def test_whole_files_appear(site: Site, target: Path) -> None:
    """From where the server says that they are."""
    site.to = "/elsewhere"
    seen: list[tuple[int, int | None]] = []
    download(site.url, target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [item.name for item in target.parent.iterdir()] == ["set.hdf5"]


def break_off(site: Site, target: Path) -> None:
    site.break_after = 300_000
    with pytest.raises(DataError, match=r"broke off after 300,000 bytes.*the same command continues"):
        download(site.url, target)
    assert not target.exists()
    site.break_after = None


@pytest.mark.parametrize(("tag", "content"), [('"one"', CONTENT), ('"two"', OTHER)])
def test_broken_off_then_resumed_unless_the_file_has_changed(
    site: Site, target: Path, tag: str, content: bytes
) -> None:
    break_off(site, target)
    site.tag, site.content = tag, content
    download(site.url, target)
    assert site.ranges == [None, "bytes=300000-"]
    assert target.read_bytes() == content


def test_a_piece_of_another_file_or_place_is_not_the_rest(site: Site, target: Path) -> None:
    break_off(site, target)
    site.deaf, site.tag, site.content = True, '"two"', OTHER
    break_off(site, target)
    assert target.with_name("set.hdf5.part").read_bytes() == OTHER[:300_000]
    site.shift = 100
    download(site.url, target)
    assert target.read_bytes() == OTHER
    assert site.ranges == [None, *["bytes=300000-", None] * 2]


LOGIN = b"<!DOCTYPE html><html><body>Please log in</body></html>"
TROUBLE: list[tuple[dict[str, Any], type[DataError], str]] = [
    ({"root": NOWHERE}, UnavailableError, "cannot be reached"),
    ({"status": 404}, UnavailableError, "answered 404"),
    ({"announced": len(CONTENT) + 500}, BrokenError, "broke off after 1,048,576 bytes"),
    ({"piece": 1, "slices": 0.02}, UnavailableError, r"is given up: it sent \d+ bytes in 1 seconds"),
    ({"content": LOGIN}, UnavailableError, "sends a web page.* in place of the file"),
    ({"content": b""}, UnavailableError, "sends nothing in place"),
    ({"content": b"PK\x03\x04 something"}, UnavailableError, "sends something else in place"),
    ({"content": HDF5_MAGIC[:5]}, UnavailableError, "sends something else in place"),
    ({"content": LOGIN, "to": "/else"}, UnavailableError, "set.hdf5, redirected to .*/else, sends a web page"),
    ({"to": "file:///etc/hostname"}, UnavailableError, "(?i)redirect.*file:///etc/hostname"),
]


@pytest.mark.parametrize(("trouble", "kind", "said"), TROUBLE, ids=lambda given: str(given)[:30])
def test_what_is_not_to_be_had(
    site: Site, target: Path, trouble: dict[str, Any], kind: type[DataError], said: str
) -> None:
    vars(site).update({"content": HDF5_MAGIC + CONTENT[8:], **trouble})
    with pytest.raises(kind, match=said):
        download(site.url, target, magic=HDF5_MAGIC, timeout=0.5)
    assert not target.exists()
    assert "content" not in trouble or not list(target.parent.iterdir()), "a web page is no part of the file"


def test_two_processes_at_once(site: Site, target: Path) -> None:
    """The second one waits, and finds the file; the server is asked once."""
    site.slices = 0.02
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=download, args=(site.url, target)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert site.ranges == [None]
    assert [item.name for item in target.parent.iterdir()] == ["set.hdf5"]


def test_a_disk_that_takes_less_than_it_is_given(site: Site, target: Path) -> None:
    """The last piece is written in part, which is no error of the system's; what is missing comes with the resume."""
    limits, told = resource.getrlimit(resource.RLIMIT_FSIZE), list[tuple[int, int | None]]()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 1, limits[1]))
    try:
        with pytest.raises(BrokenError, match="broke off after 1,048,575 bytes"):
            download(site.url, target, progress=lambda *done: told.append(done))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    download(site.url, target)
    assert target.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1048575-"]


def test_disks_that_are_full_or_read_only(site: Site, mounted: Callable[[str], Path]) -> None:
    disk = mounted("200k")
    with pytest.raises(DataError, match=f"Cannot write .*{os.strerror(errno.ENOSPC)}. Free some space"):
        download(site.url, disk / "set.hdf5")
    assert not (disk / "set.hdf5").exists()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(DataError, match=f"Cannot write .*{os.strerror(errno.EROFS)}"):
        download(site.url, disk / "set.hdf5")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the walker's file will be; D4RL's server is not up."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(D4RL, "root", NOWHERE)
    return tmp_path / "cache" / "walker2d_medium-v2.hdf5"


def test_mirrors_are_tried_in_order_and_each_ones_reason_is_given(site: Site, cached: Path) -> None:
    """After one that falls silent it goes on from the start: what came of another address is not its file."""
    site.status = 503
    with pytest.raises(UnavailableError, match=r"127.0.0.1:9/\S+ cannot be reached .*; \S+ answered 503"):
        d4rl_download(WALKER, mirrors=(site.root,))
    site.status, site.content = 200, HDF5_MAGIC + CONTENT
    mirrors = (NOWHERE + "first", site.root + "/silent/{file}", site.root + "/flat/{name}?raw=1", "http://unasked")
    found = d4rl_download(WALKER, mirrors=mirrors, timeout=0.5)
    assert found.address == site.root + "/flat/walker2d_medium-v2.hdf5?raw=1"
    asked = [NOWHERE + WALKER.file, hugging_face_address(WALKER.file), f"{NOWHERE}first/{WALKER.file}"]
    assert [reason.split(" cannot")[0] for reason in found.failed[:3]] == asked
    assert f"{site.root}/silent/{WALKER.file} broke off" in found.failed[3]
    assert "bytes (TimeoutError)" in found.failed[3]
    assert cached.read_bytes() == site.content
    for wrong, said in (("a.org", "begins with http"), ("file:///etc", "begins with"), ("http://a/{task}", "braces")):
        with pytest.raises(ConfigError, match=said):
            d4rl_download(WALKER, mirrors=(wrong,))


@pytest.fixture
def second(site: Site, cached: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the walker's file will be; the server is D4RL's second home."""
    monkeypatch.setenv("HF_ENDPOINT", site.root)
    return cached


def test_the_second_home(
    site: Site, second: Path, d4rl_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked after D4RL's server, for MuJoCo's files only, at a revision; what came is held to rows and digest."""
    assert (WALKER.rows, tasks.get("hopper-medium-expert-v2").rows) == (999_995, 1_999_906)
    had = {item["name"]: item["addresses"] for item in list_datasets()["d4rl"]}
    assert had[WALKER.name] == (NOWHERE + WALKER.file, hugging_face_address(WALKER.file))
    assert had["pen-human-v1"] == (f"{NOWHERE}hand_dapg_v1/pen-human-v1.hdf5",)
    site.content = d4rl_file().read_bytes()
    found = d4rl_download(SMALL)
    where = "/datasets/imone/D4RL/resolve/9ed58d8a76c12f4c1cb5db51fa71389e703d2ec5/walker2d_medium-v2.hdf5"
    assert (found.address, site.paths, len(found.failed)) == (site.root + where, [where], 1)
    digest = hashlib.sha256(site.content).hexdigest()
    assert second.with_name(second.name + ".sha256").read_text() == f"{digest}  walker2d_medium-v2.hdf5\n"
    assert d4rl_cache(SMALL).digest() == digest
    second.write_bytes(site.content[:-1] + b"x")
    with pytest.raises(DataError, match=r"has changed: its SHA-256 is .*data download walker2d-medium-v2 --force"):
        load_dataset(WALKER, ("d4rl_cache",))
    assert report_findings(WALKER.name)
    assert "when walker2d_medium-v2.hdf5 was first downloaded" in capsys.readouterr().out


def test_another_file_at_the_second_home(site: Site, second: Path, d4rl_file: Callable[..., Path]) -> None:
    """Other rows, another layout, or other bytes than the first time: named, discarded, and what was there stays."""
    short = d4rl_file(5).read_bytes()
    for content, task, said in (
        (short, SMALL, "sends 5 rows for walker2d-medium-v2, which has 60"),
        (short, replace(SMALL, counted=False), "sends 5 rows for walker2d-medium-v2, which has about 60"),
        (HDF5_MAGIC + CONTENT, SMALL, "sends something else than walker2d-medium-v2"),
    ):
        site.content = content
        with pytest.raises(DataError, match=said):
            d4rl_download(task)
    assert not list(second.parent.glob("walker2d*"))
    site.content = first = d4rl_file().read_bytes()
    d4rl_download(SMALL)
    site.content = d4rl_file(rewards=np.ones(60)).read_bytes()
    with pytest.raises(DataError, match=r"sends another file than before: SHA-256 is .*delete .*hdf5\.sha256"):
        d4rl_download(SMALL)
    assert second.read_bytes() == first
    second.with_name(second.name + ".sha256").unlink()
    d4rl_download(SMALL)
    assert second.read_bytes() == site.content


def test_ogbenchs_file_is_fetched_once_for_all_its_tasks(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server first, then the Hugging Face data set; into the folder in which the ogbench package looks, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", site.root)
    monkeypatch.setitem(OGBENCH, "server", NOWHERE + "{file}")
    made = io.BytesIO()
    np.savez(made, terminals=np.zeros(10, bool))
    site.content = made.getvalue()
    place = tmp_path / ".ogbench" / "data" / "cube-single-play-v0.npz"
    found = ogbench(tasks.get("cube-single-play-singletask-task3-v0"))
    assert (found.place, found.caveat, len(found.failed)) == (place, "", 1)
    assert place.read_bytes() == site.content
    assert ogbench(tasks.get("cube-single-play-singletask-v0")).place == place
    assert site.paths == [f"/datasets/zhouzypaul/ogbench_datasets/resolve/{REVISION}/cube-single-play-v0.npz"]
    assert found.digest() == hashlib.sha256(site.content).hexdigest()
    place.write_bytes(site.content[:-1])
    with pytest.raises(DataError, match="cube-single-play-v0.npz has changed: its SHA-256 is.*Delete it; then"):
        found.digest()
    place.unlink()
    site.content += b"more"
    with pytest.raises(DataError, match="sends another file than before"):
        ogbench(tasks.get("cube-single-play-singletask-v0"))
