"""A folder that is written whole or not at all."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dqlab.errors import RunError
from dqlab.files import remove_leftovers

EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
HERE = -100  # AT_FDCWD


@contextmanager
def new_folder(folder: Path, is_own: Callable[[Path], bool], what: str = "a report") -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well and is removed otherwise.

    Args:
        folder: what is replaced, if it is there.
        is_own: whether an existing folder may be replaced: it is of the same making.
        what: what it holds then.

    Raises:
        RunError: the folder holds something else.
    """
    if folder.exists() and not (folder.is_dir() and (is_own(folder) or not any(folder.iterdir()))):
        raise RunError(f"{folder} holds something else than {what}: it is not replaced. Move it away.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _replace(new: Path, old: Path) -> None:
    """Give `new` the name `old`: one step on Linux, so that there is a whole folder under that name at any time."""
    if not old.exists():
        os.rename(new, old)
    elif not _exchange(new, old):
        aside = new.with_suffix(".old")
        os.rename(old, aside)
        os.rename(new, old)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths swap their names at once; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0
