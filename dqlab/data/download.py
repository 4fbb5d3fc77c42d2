"""Downloads over HTTP: progress, resume, a file that appears whole or not at all, and the digest that it had."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any

from dqlab.data.formats.reading import write_errors
from dqlab.errors import DataError, printable_name
from dqlab.files import sha256_of, write_text


class UnavailableError(DataError):
    """This source does not have the dataset; the message says why."""


class BrokenError(DataError):
    """A transfer broke off, or what came is not the file; another address may have it."""


Progress = Callable[[int, int | None], None]


def no_progress(done: int, total: int | None) -> None:
    """A progress callback that shows nothing."""


def accept_any(path: Path) -> None:
    """A check that finds nothing."""


_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)


@contextlib.contextmanager
def no_downloads() -> Iterator[list[str]]:
    """Within this, what would have to be fetched is not to be had; yields the addresses that were asked for."""
    refused: list[str] = []
    token = _refused.set(refused)
    try:
        yield refused
    finally:
        _refused.reset(token)


def refuse_if_planning(address: str) -> None:
    """Whatever fetches something asks this first.

    Raises:
        UnavailableError: within `no_downloads`.
    """
    if (refused := _refused.get()) is not None:
        refused.append(address)
        raise UnavailableError("not fetched while planning")


CHUNK = 1 << 18
LEAST_RATE = 1024
"""Bytes a second below which an address is given up."""
CACHE_ADVICE = "Free some space or set D4RL_DATASET_DIR."
WEB = ("http://", "https://")


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    magic: bytes = b"",
    check: Callable[[Path], None] = accept_any,
    progress: Progress = no_progress,
    timeout: float = 30.0,
) -> None:
    """Fetch `url` to `path`, continuing an earlier attempt's `.part` file where the server still has the same file.

    Where another process is fetching the same file, its end is awaited.

    Args:
        url: http or https address.
        path: where the complete file appears, by an atomic rename.
        sha256: expected digest, hexadecimal; None checks the length only.
        magic: what the file must begin with, whatever the server says that it sends.
        check: looks at the complete file before it appears; what it raises a BrokenError for is deleted.
        progress: called with bytes done and bytes in all (None where the server does not say).
        timeout: seconds without a byte after which the attempt is given up; after twice as many in which no answer
            is complete, or less than `LEAST_RATE` bytes a second came, it is too.

    Raises:
        UnavailableError: the server cannot be reached, does not have the file, or sends something else.
        BrokenError: the transfer broke off (what came is kept for a resume), or the digest is wrong (what came is
            deleted).
        DataError: the file cannot be written: the disk is full, or the folder read-only.
    """
    refuse_if_planning(url)
    part = path.with_name(path.name + ".part")
    with write_errors(path, CACHE_ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _hold_part(part, path) as needed:
            if needed:
                expected = _fetch(url, part, magic, progress, timeout)
                _verify(url, part, expected, sha256)
                _check_or_discard(check, part)
                os.replace(part, path)
                _resume_note(part).unlink(missing_ok=True)


def _check_or_discard(check: Callable[[Path], None], part: Path) -> None:
    try:
        check(part)
    except BrokenError:
        _discard(part)
        raise


def _discard(part: Path) -> None:
    """Delete what came: it is not the file."""
    part.unlink()
    _resume_note(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _hold_part(part: Path, path: Path) -> Iterator[bool]:
    """Hold the `.part` file against other processes; False where one of them has brought the file meanwhile."""
    before = _identity(path)
    while True:
        with part.open("ab") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if _identity(part) == _identity(file.fileno()):
                try:
                    yield True
                finally:
                    _drop_empty(part)
                return
        if _identity(path) not in (None, before):
            yield False
            return


def _drop_empty(part: Path) -> None:
    """Leave nothing where nothing came."""
    with contextlib.suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()
            _resume_note(part).unlink(missing_ok=True)


def _identity(file: Path | int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        facts = os.stat(file)
        return facts.st_dev, facts.st_ino
    return None


def _resume_note(part: Path) -> Path:
    """Where the server's identification of a partly fetched file is kept."""
    return part.with_name(part.name + ".json")


def _fetch(url: str, part: Path, magic: bytes, progress: Progress, timeout: float) -> int | None:
    """Bring the `.part` file up to date; returns the whole file's length, if the server told it."""
    with _open(url, part, timeout) as response:
        resumed = response.status == 206
        done = part.stat().st_size if resumed else 0
        total = None if response.length is None else done + response.length
        blocks = _blocks(response, url, part, 2 * timeout)
        first = next(blocks, b"")
        if not resumed and not first.startswith(magic):
            raise UnavailableError(_not_the_file(url, response.geturl(), first))
        _resume_note(part).write_text(json.dumps({"url": url, "tag": _tag(response)}))
        with part.open("ab" if resumed else "wb") as file:
            for block in itertools.chain([first], blocks):
                file.write(block)
                done += len(block)
                progress(done, total)
    return total


def _open(url: str, part: Path, timeout: float) -> Any:
    """The rest of the `.part` file where the server has it, else the whole file, for which the part is emptied."""
    asked = _resume_headers(url, part)
    response = _request(url, asked, timeout)
    if response is None or (response.status == 206 and not _continues(response, part)):
        if response is not None:
            response.close()
        if not asked:
            raise UnavailableError(f"{url} sends a piece of the file, which was not asked for")
        os.truncate(part, 0)
        return _open(url, part, timeout)
    return response


def _request(url: str, asked: dict[str, str], timeout: float) -> Any:
    """The server's; None where the kept part no longer fits its file."""
    headers = {"User-Agent": "dqlab", **asked}
    request = urllib.request.Request(url, headers=headers)
    try:
        return _call_with_timeout(
            2 * timeout, lambda: urllib.request.build_opener(WebRedirectHandler).open(request, timeout=timeout)
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and asked:
            return None
        raise UnavailableError(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from error


class WebRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves the web."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(WEB):
            raise urllib.error.URLError(f"it redirects to {printable_name(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _call_with_timeout(seconds: float, ask: Callable[[], Any]) -> Any:
    """What a function returns or raises, if it does so in time: sockets know pauses only, not how long all of it takes.

    Raises:
        TimeoutError: it does not.
    """
    answers: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            answers.append((ask(), None))
        except BaseException as error:
            answers.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise TimeoutError(f"no whole answer in {seconds:g} seconds")
    answer, error = answers[0]
    if error is not None:
        raise error
    return answer


def _tag(response: Any) -> str | None:
    """What the server knows this version of the file by."""
    tag: str | None = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return tag


def _continues(response: Any, part: Path) -> bool:
    """Whether a piece is the rest of the very file: some servers know ranges, but not what `If-Range` asks."""
    with contextlib.suppress(OSError, ValueError):
        start = f"bytes {part.stat().st_size}-"
        same = _tag(response) == json.loads(_resume_note(part).read_text())["tag"]
        return same and str(response.headers.get("Content-Range")).startswith(start)
    return False


def _resume_headers(url: str, part: Path) -> dict[str, str]:
    """Ask for the rest of the same file only; a server whose file changed sends all of the new one."""
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(_resume_note(part).read_text())
        if note["url"] == url and note["tag"] and part.stat().st_size:
            return {"Range": f"bytes={part.stat().st_size}-", "If-Range": note["tag"]}
    return {}


def _not_the_file(url: str, answered: str, first: bytes) -> str:
    page = b"<html" in first[:1000].lower() or b"<!doctype" in first[:1000].lower()
    what = "a web page (a login, a proxy's notice?)" if page else "something else" if first else "nothing"
    detour = f", redirected to {answered}," if answered != url else ""
    return f"{url}{detour} sends {what} in place of the file"


def _blocks(response: Any, url: str, part: Path, window: float) -> Iterator[bytes]:
    """What comes, in large pieces; in every window of so many seconds it must be enough."""
    block, came, began = bytearray(), 0, time.monotonic()
    while True:
        try:
            piece = response.read1(CHUNK)
        except (OSError, HTTPException) as error:
            raise _broken(url, part, f"{type(error).__name__}") from error
        block, came = block + piece, came + len(piece)
        if block and (not piece or len(block) >= CHUNK):
            yield bytes(block)
            block = bytearray()
        if not piece:
            return
        if (lasted := time.monotonic() - began) > window:
            if came < LEAST_RATE * lasted:
                raise UnavailableError(f"{url} is given up: it sent {came:,} bytes in {lasted:.0f} seconds")
            came, began = 0, time.monotonic()


def _broken(url: str, part: Path, why: str) -> BrokenError:
    size = part.stat().st_size if part.exists() else 0
    return BrokenError(
        f"The download of {url} broke off after {size:,} bytes ({why}). "
        "What came is kept: the same command continues it."
    )


def _verify(url: str, part: Path, expected: int | None, sha256: str | None) -> None:
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise _broken(url, part, f"{expected:,} were announced")
    if sha256 is not None and sha256_of(part) != sha256.lower():
        digest = sha256_of(part)
        _discard(part)
        raise BrokenError(
            f"{url} has the wrong checksum: SHA-256 {digest} instead of {sha256}. The file was discarded; "
            "the server's copy is damaged or not the one you expect."
        )


# SHA-256 of downloaded files, kept beside them: D4RL publishes none, so the first download's is the one to hold


def digest_path(path: Path) -> Path:
    """Where a file's digest is kept, as `sha256sum -c` reads it."""
    return path.with_name(path.name + ".sha256")


def recorded_digest(path: Path) -> str:
    """The digest that a file had when it was downloaded, hexadecimal; empty where none is known."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = digest_path(path).read_text().split()
        return words[0].lower() if words and len(words[0]) == 64 else ""
    return ""


def record_digest(path: Path, digest: str) -> None:
    """Keep a file's digest beside it.

    Raises:
        DataError: it cannot be written.
    """
    with write_errors(digest_path(path), ""):
        write_text(digest_path(path), f"{digest}  {path.name}\n")


def forget_digest(path: Path) -> None:
    """Remove the digest of a file that is replaced by one that was not downloaded."""
    with contextlib.suppress(OSError):
        digest_path(path).unlink(missing_ok=True)


def digest_fault(path: Path, digest: str) -> str:
    """What is wrong with a file of this digest that is to be the one that was downloaded; empty if it is."""
    known = recorded_digest(path)
    if known in ("", digest):
        return ""
    return (
        f"SHA-256 is {digest}, and was {known} when {path.name} was first downloaded. Where the new one is meant, "
        f"delete {digest_path(path)}."
    )
