"""A job's folder, kept the same on two machines that share no file system.

What is written on the node in some order must not stand on the driver's machine in another: a checkpoint counts the
records of journals, and names snapshots. So a set of files is taken when nothing but journals changes meanwhile, the
journals last (they only grow); and it is put into place journals first, then in the order in which it was written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dqlab.run_folder import LOCK

GROWING = {".jsonl", ".log"}
TRIES = 5
STAGE = ".incoming"

Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and size."""


def scan(folder: Path) -> dict[str, Stamp]:
    """The files of a folder, by their paths in it; without locks and what is hidden (temporary files)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.name == LOCK or any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        with suppress(FileNotFoundError):  # deleted since it was listed
            status = path.stat()
            found[name.as_posix()] = (status.st_mtime_ns, status.st_size)
    return found


def grows(name: str) -> bool:
    """Whether a file is only appended to."""
    return Path(name).suffix in GROWING


class Sender:
    """Sends what has changed in a folder, as one set.

    Args:
        folder: the folder; what is in it now need not be sent.
        stage: `(name, content)` takes a file's new content to the other side, but not yet into its place.
        commit: `(names in order, names that are gone)` puts all that was staged into place.
    """

    def __init__(
        self,
        folder: Path,
        stage: Callable[[str, bytes], None],
        commit: Callable[[Sequence[str], Sequence[str]], None],
    ) -> None:
        self._folder, self._stage, self._commit = folder, stage, commit
        self._sent = scan(folder)
        self._staged: list[str] = []

    def send(self) -> bool:
        """Whether a set could be taken: not where the folder has changed again and again; the next call may."""
        for _ in range(TRIES):
            try:
                if not self._stage_changed(scan(self._folder), growing=False):
                    break
            except FileNotFoundError:  # deleted since it was listed
                continue
        else:
            return False
        now = scan(self._folder)
        self._stage_changed(now, growing=True)
        gone = [name for name in self._sent if name not in now]
        if self._staged or gone:
            wanted = {name for name in self._staged if name in now}
            self._commit(sorted(wanted, key=lambda name: (not grows(name), self._sent[name], name)), gone)
        self._staged, self._sent = [], {name: stamp for name, stamp in self._sent.items() if name in now}
        return True

    def _stage_changed(self, now: dict[str, Stamp], growing: bool) -> list[str]:
        """Stage the changed files of one sort; returns their names."""
        changed = [name for name in now if grows(name) == growing and self._sent.get(name) != now[name]]
        for name in changed:
            self._stage(name, (self._folder / name).read_bytes())
            self._sent[name] = now[name]
            self._staged.append(name)
        return changed


class Receiver:
    """The other side: puts files into a folder, each set whole, every file atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._incoming = folder, folder / STAGE
        self.clear()

    def clear(self) -> None:
        """Forget what was staged and never put into place."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def stage(self, name: str, content: bytes) -> None:
        """Keep a file's new content."""
        path = self._inside(self._incoming, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def commit(self, names: Sequence[str], gone: Sequence[str]) -> None:
        """Put what was staged into place, in this order, and delete what is gone."""
        for name in names:
            place = self._inside(self._folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._incoming / name, place)
        for name in gone:
            self._inside(self._folder, name).unlink(missing_ok=True)
        self.clear()

    @staticmethod
    def _inside(folder: Path, name: str) -> Path:
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{name} is no file inside {folder}")
        return path
