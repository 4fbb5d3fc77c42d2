"""Downloads from a real local HTTP server: plain, slow, broken off, resumed, changed, wrong, absent, disk full."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dqlab.data.download import download
from dqlab.data.unavailable import UnavailableError
from dqlab.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """A server of one file, and how it misbehaves."""

    content: bytes = CONTENT
    tag: str = '"one"'
    break_after: int | None = None
    stall: float = 0.0
    slices: float = 0.0
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if self.status != 200:
            request.send_error(self.status)
            return
        body, same = self.content, request.headers.get("If-Range") == self.tag
        if wanted and same:
            body = self.content[int(wanted.removeprefix("bytes=").rstrip("-")) :]
        request.send_response(206 if wanted and same else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", self.tag)
        request.end_headers()
        self.send(request, body)

    def send(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.break_after is not None:
            body = body[: self.break_after]
        for start in range(0, len(body), 1 << 16):
            request.wfile.write(body[start : start + (1 << 16)])
            time.sleep(self.slices)
        request.wfile.flush()
        time.sleep(self.stall)
        request.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), site.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/set.hdf5"
    yield site
    server.shutdown()
    server.server_close()


def test_plain(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "set.hdf5"
    download(site.url, target, sha256=SHA256, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [item.name for item in target.parent.iterdir()] == ["set.hdf5"]


def test_slow(site: Site, tmp_path: Path) -> None:
    site.slices = 0.05
    download(site.url, tmp_path / "set.hdf5", sha256=SHA256, timeout=5)
    assert (tmp_path / "set.hdf5").read_bytes() == CONTENT


def test_broken_off_then_resumed(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "set.hdf5"
    site.break_after = 300_000
    with pytest.raises(DataError, match=r"broke off after 300,000 bytes.*the same command continues"):
        download(site.url, target)
    assert not target.exists()
    site.break_after = None
    download(site.url, target, sha256=SHA256)
    assert site.ranges == [None, "bytes=300000-"]
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_anew(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "set.hdf5"
    site.break_after = 300_000
    with pytest.raises(DataError):
        download(site.url, target)
    site.break_after, site.tag, site.content = None, '"two"', CONTENT[::-1]
    download(site.url, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_server_that_falls_silent(site: Site, tmp_path: Path) -> None:
    site.break_after, site.stall = 200_000, 3.0
    with pytest.raises(DataError, match="broke off"):
        download(site.url, tmp_path / "set.hdf5", timeout=0.5)


def test_wrong_checksum(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wrong checksum"):
        download(site.url, tmp_path / "set.hdf5", sha256="0" * 64)
    assert not list(tmp_path.glob("set.hdf5*.part"))
    assert not (tmp_path / "set.hdf5").exists()


def test_absent_and_unreachable(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(UnavailableError, match="404"):
        download(site.url, tmp_path / "set.hdf5")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        download("http://127.0.0.1:9/set.hdf5", tmp_path / "set.hdf5", timeout=2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(site: Site, tmp_path: Path) -> None:
    """/dev/full refuses every write with ENOSPC, as a full disk does."""
    part = tmp_path / "set.hdf5.part"
    os.symlink("/dev/full", part)
    with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)):
        download(site.url, tmp_path / "set.hdf5")
    assert not (tmp_path / "set.hdf5").exists()
