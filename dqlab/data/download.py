"""Downloads over HTTP: progress, resume, whole files or none, digests; and where datasets lie, and can be had."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

from dqlab.data.formats.base import write_errors
from dqlab.envs.tasks import D4RL, Task
from dqlab.errors import ConfigError, DataError
from dqlab.files import expanded, sha256_of, write_text

LEAST_RATE = 1024  # bytes a second below which an address is given up
MINARI_STORE = "MINARI_DATASETS_PATH"


class UnavailableError(DataError):
    """This source does not have the dataset; the message says why."""


class BrokenError(DataError):
    """A transfer broke off, or what came is not the file; another address may have it."""


Progress = Callable[[int, int | None], None]


def no_progress(done: int, total: int | None) -> None:
    """A progress callback that shows nothing."""


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
    """Whatever fetches something asks this first; an UnavailableError within `no_downloads`."""
    if (refused := _refused.get()) is not None:
        refused.append(address)
        raise UnavailableError("not fetched while planning")


def download_from(
    addresses: Sequence[str],
    path: Path,
    own: Sequence[str],
    check: Callable[[str, Path], object] = lambda address, part: None,
    **options: Any,
) -> dict[str, Any]:
    """Fetch a file, as `download` does, from the first of several addresses that has it, and keep its digest beside it.

    From the addresses that are `own` the same file must come as the first time. Returns `address` and `failed` of a
    `LocatedDataset`. An UnavailableError where none has it; a BrokenError, if it broke off or was another somewhere.
    """
    refuse_if_planning(addresses[0])
    failed: list[UnavailableError | BrokenError] = []
    for address in addresses:

        def check_and_record(part: Path, address: str = address) -> None:
            check(address, part)
            digest = sha256_of(part)
            if address in own and (fault := digest_fault(path, digest)):
                raise BrokenError(f"{address} sends another file than before: {fault}")
            with write_errors(_beside(path, ".sha256"), ""):
                write_text(_beside(path, ".sha256"), f"{digest}  {path.name}\n")

        try:
            download(address, path, check=check_and_record, **options)
        except (UnavailableError, BrokenError) as error:
            failed.append(error)
        else:
            return {"address": address, "failed": tuple(map(str, failed))}
    kind = BrokenError if any(isinstance(error, BrokenError) for error in failed) else UnavailableError
    raise kind("; ".join(map(str, failed)))


def minari_store() -> Path:
    """Where Minari keeps its datasets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return expanded(os.environ.get(MINARI_STORE) or "~/.minari/datasets")


def cache_folder() -> Path:
    """Where D4RL keeps its files: $D4RL_DATASET_DIR, or ~/.d4rl/datasets."""
    return expanded(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets")


def download(
    url: str,
    path: Path,
    *,
    magic: bytes = b"",
    check: Callable[[Path], object] = lambda part: None,
    progress: Progress = no_progress,
    timeout: float = 30.0,
) -> None:
    """Fetch `url` to `path`, whole or not at all, continuing an earlier attempt's `.part` file where that still fits.

    The file must begin with `magic`; `check` looks at all of it before it appears: what it raises a BrokenError for is
    deleted. `progress` hears bytes done and in all (None where the server does not say). An attempt is given up after
    `timeout` seconds without a byte, or twice as many in which less than `LEAST_RATE` bytes a second came.

    An UnavailableError where the server cannot be reached, has no such file, or sends something else; a BrokenError
    where the transfer broke off (what came is kept for a resume); a DataError where the file cannot be written.
    """
    part = _beside(path, ".part")
    with write_errors(path, "Free some space or set D4RL_DATASET_DIR."), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        folder = os.open(path.parent, os.O_RDONLY)
        stack.callback(os.close, folder)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)  # one process at a time downloads into a folder
        if path.exists() and path.stat().st_mtime_ns != before:  # another process has brought it meanwhile
            return
        _fetch(url, part, magic, progress, timeout)
        try:
            check(part)
        except BrokenError:
            part.unlink()
            _beside(part, ".json").unlink(missing_ok=True)
            raise
        os.replace(part, path)
        _beside(part, ".json").unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    """The `.part` of a file that came, the server's name for that (`.json`), or the first download's `.sha256`."""
    return path.with_name(path.name + suffix)


def _fetch(url: str, part: Path, magic: bytes, progress: Progress, timeout: float) -> None:
    """Bring the `.part` file to the length that the server tells."""

    def received(read: Callable[[int], bytes], most: int) -> bytes:
        try:
            return read(most)
        except (OSError, HTTPException) as error:
            raise _broken(url, part, type(error).__name__) from error

    with _request(url, part, timeout) as response:
        resumed = response.status == 206
        done = part.stat().st_size if resumed else 0
        total = None if response.length is None else done + response.length
        piece = received(response.read, 16)
        if not resumed and not piece.startswith(magic):
            page = b"<html" in piece.lower() or b"<!doctype" in piece.lower()
            what = "a web page (a login, a proxy's notice?)" if page else "something else" if piece else "nothing"
            detour = f", redirected to {response.geturl()}," if response.geturl() != url else ""
            raise UnavailableError(f"{url}{detour} sends {what} in place of the file")
        with part.open("ab" if resumed else "wb", buffering=0) as file:
            _beside(part, ".json").write_text(json.dumps({"url": url, "tag": _tag(response)}))
            came, since = 0, time.monotonic()
            while piece:
                file.write(piece)
                done, came = done + len(piece), came + len(piece)
                progress(done, total)
                if (lasted := time.monotonic() - since) > 2 * timeout:
                    if came < LEAST_RATE * lasted:  # something before every time-out, and that for days
                        raise UnavailableError(f"{url} is given up: it sent {came:,} bytes in {lasted:.0f} seconds")
                    came, since = 0, time.monotonic()
                piece = received(response.read1, 1 << 16)
    if total is not None and part.stat().st_size < total:  # as written: a disk may take less than it was given
        raise _broken(url, part, f"{total:,} were announced")


def _tag(response: Any) -> Any:
    """What the server knows this version of the file by."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _request(url: str, part: Path, timeout: float) -> Any:
    """The rest of the `.part` file where the server has it, else the whole file."""
    size, tag = 0, ""
    with contextlib.suppress(OSError, ValueError, KeyError):
        note = json.loads(_beside(part, ".json").read_text())
        if note["url"] == url and note["tag"] and (size := part.stat().st_size):
            tag = str(note["tag"])
    for asked in [{"Range": f"bytes={size}-", "If-Range": tag}, {}] if tag else [{}]:
        request = urllib.request.Request(url, headers={"User-Agent": "dqlab", **asked})
        try:
            response = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and asked:
                continue
            raise UnavailableError(f"{url} answered {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise UnavailableError(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from error
        begins = str(response.headers.get("Content-Range")).startswith(f"bytes {size}-")
        if response.status != 206 or (asked and begins and tag == _tag(response)):
            return response
        response.close()  # some servers know ranges, but not what `If-Range` asks
    raise UnavailableError(f"{url} sends a piece of the file, which was not asked for")


def _broken(url: str, part: Path, why: str) -> BrokenError:
    size = part.stat().st_size if part.exists() else 0
    said = f"The download of {url} broke off after {size:,} bytes ({why})"
    return BrokenError(f"{said}. What came is kept: the same command continues it.")


def digest_fault(path: Path, digest: str) -> str:
    """What is wrong with a file of this digest that is to be the one that was downloaded; empty if it is."""
    kept, known = _beside(path, ".sha256"), ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = kept.read_text()[:64].lower()
    if len(known.strip()) != 64 or known == digest:
        return ""
    was = f"was {known} when {path.name} was first downloaded"
    return f"SHA-256 is {digest}, and {was}. Where the new one is meant, delete {kept}."


def dataset_addresses(task: Task) -> list[str]:
    """Addresses at which the task's file can be had: D4RL's server, and Hugging Face's where it has the file."""
    return list(filter(None, (task.url, hugging_face_address(task.file))))


def mirror_addresses(mirrors: Sequence[str] | str, file: str) -> list[str]:
    """The addresses of one mirror, or of several, of a file."""
    return [address_of(mirror, file) for mirror in ((mirrors,) if isinstance(mirrors, str) else mirrors)]


def address_of(mirror: str, file: str) -> str:
    """A mirror's address of a file, whose path on the original server is given.

    The mirror is a base address with the same folders; or an address with `{file}`, for the path in these folders, or
    `{name}`, for the file's name alone. A ConfigError where it is no address, or has other braces.
    """
    if not mirror.lower().startswith(("http://", "https://")):
        raise ConfigError(f"A mirror's address begins with http:// or https://, not {mirror!r}.")
    pattern = mirror if "{" in mirror else mirror.rstrip("/") + "/{file}"
    address = pattern.replace("{file}", file).replace("{name}", PurePosixPath(file).name)
    if "{" in address or "}" in address:
        raise ConfigError(f"A mirror's address may have {{file}} and {{name}} in braces, nothing else: {mirror!r}.")
    return address


def hugging_face_address(file: str) -> str:
    """Where the data set `imone/D4RL` on Hugging Face has a file of D4RL's server; empty for all but MuJoCo's 24."""
    home = D4RL["second_home"]
    there = {f"{home['folder']}/{robot}_{quality}-v2.hdf5" for robot in home["robots"] for quality in home["qualities"]}
    return second_address(home, file) if file in there else ""


def second_address(home: Mapping[str, Any], file: str) -> str:
    """Where a data set on Hugging Face has a file: below $HF_ENDPOINT, or the home's `endpoint`, by its `path`."""
    endpoint = (os.environ.get("HF_ENDPOINT") or home["endpoint"]).rstrip("/")
    return address_of(f"{endpoint}{home['path']}", file)
