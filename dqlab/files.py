"""Files that are written whole or not at all."""

from __future__ import annotations

import codecs
import errno
import glob
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dqlab.errors import RunError, one_line


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it (after fsync) when the block ends well, removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove those that killed processes have left: temporary files and folders, named `.NAME.PID.tmp`."""
    for path in list(paths):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found is None or (int(found[1]) != os.getpid() and _is_running(int(found[1]))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def read_user_text(path: Path) -> str:
    """Text that somebody has written, in UTF-8 or UTF-16, whatever the locale; a byte order mark is no part of it."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.read_text(encoding="utf-16" if wide else "utf-8-sig")


def look_here_for(module: str) -> None:
    """Have Python look for a module in the current folder, too, where one of that name lies."""
    top = module.partition(".")[0]
    if str(Path.cwd()) not in sys.path and any(Path(place).is_file() for place in (f"{top}.py", f"{top}/__init__.py")):
        sys.path.append(str(Path.cwd()))


def expanded(path: str | Path) -> Path:
    """A path whose `~` or `~user` is replaced by that home folder, where there is one."""
    return Path(os.path.expanduser(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes; an OSError where it cannot be read, or is no ordinary file."""
    check_ordinary(path)
    return path.read_bytes()


def check_ordinary(path: Path) -> None:
    """Raise an OSError unless something is a file in fact: a pipe, or a device, may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a file")


def open_lock(path: Path) -> TextIO:
    """Open a file that processes lock, made if need be; a RunError where it is a link or a pipe, or not writable."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "r+")
        check_ordinary(path)
    except OSError as error:
        raise RunError(f"{path} cannot be locked ({error.strerror}).") from error
    return file


def read_text(path: Path) -> str:
    """A text in UTF-8; a RunError where it cannot be read, or is something else."""
    try:
        return read_bytes(path).decode()
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({one_line(error, 120)}). Restore it from a copy.") from error


def path_within(path: Path, folder: Path) -> Path:
    """A path in a folder; a RunError where a link on the way, or a `..`, leads to another place."""
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), path.relative_to(folder)):
        raise RunError(f"{path} is a link to another place, which is not followed. Put a copy there.")
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    import hashlib  # as below: it takes 3 ms, which is much of --help

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a value as JSON, in which names have no order."""
    import hashlib

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(path.stat().st_size for path in [place, *place.rglob("*")] if path.is_file())


def check_replaceable(folder: Path, is_own: Callable[[Path], bool], what: str) -> None:
    """Raise a RunError unless a folder is not there, is empty, or is of the same making, as `new_folder` takes it."""
    if folder.exists() and not (folder.is_dir() and (is_own(folder) or not any(folder.iterdir()))):
        raise RunError(f"{folder} holds something else than {what}: it is not replaced. Move it away.")


@contextmanager
def new_folder(folder: Path, is_own: Callable[[Path], bool], what: str = "a report") -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and is removed otherwise.

    Raises RunError: the folder is there, and holds something else than `what` is made here, as `is_own` tells.
    """
    check_replaceable(folder, is_own, what)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    aside = temporary.with_suffix(".old")
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            os.rename(folder, aside)
        os.rename(temporary, folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
