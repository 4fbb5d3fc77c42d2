"""What a data source has found: a dataset that is opened when it is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.data.formats.base import Columns, Format
from dqlab.data.formats.checking import DamagedError, check_widths
from dqlab.data.formats.choosing import format_of
from dqlab.data.recorded import differs
from dqlab.data.transitions import caveat_of
from dqlab.envs.tasks import Task
from dqlab.errors import DataError


@dataclass(frozen=True)
class Found:
    """A dataset: what a format opens, or rows that a source has made.

    Attributes:
        path: the file; None where there are `rows`.
        is_d4rl: whether it is D4RL's own file.
        rows: the rows, as they would be read from a file.
        stand_in: whether it stands in for the task's own data, which must be said loudly.
        format: the file's; None goes by its suffix.
        address: where it was fetched from just now.
        failed: addresses that were tried before that, and why they had nothing.
        mend: what to do where the file is damaged.
        downloaded: whether it must be what an earlier download has left a digest of, if one has.
    """

    path: Path | None
    is_d4rl: bool
    rows: Columns | None = None
    stand_in: bool = False
    format: Format | None = None
    address: str = ""
    failed: tuple[str, ...] = ()
    mend: str = ""
    downloaded: bool = False

    @property
    def caveat(self) -> str:
        """What must stand beside scores that come of it, as in `Provenance`."""
        return caveat_of(self.is_d4rl, self.rows is not None)

    @property
    def place(self) -> Path | None:
        """The file or folder; None where there are `rows`."""
        if self.path is None:
            return None
        chosen, path = self._what()
        return chosen.place(path)

    def digest(self) -> str:
        """SHA-256 of the file, or of the rows.

        Raises:
            DataError: the file is not the one that was downloaded.
        """
        if self.rows is not None:
            return digest_of_rows(self.rows)
        chosen, path = self._what()
        digest = chosen.digest(path)
        if self.downloaded and (fault := differs(path, digest)):
            raise DataError(f"{path} has changed: its {fault} {self.mend}")
        return digest

    def origin(self) -> dict[str, Any]:
        """What `Provenance` wants to know of where it is from."""
        if self.rows is not None:
            return {"path": "", "digest": self.digest(), "is_d4rl": False, "synthetic": True}
        facts = {"digest": self.digest(), "is_d4rl": self.is_d4rl, "stand_in": self.stand_in}
        return {"path": str(self.path), **facts, "address": self.address}

    @contextmanager
    def open(self, task: Task) -> Iterator[Columns]:
        """The columns, as wide as the task's states and actions.

        Raises:
            DataError: it is damaged, or another task's.
        """
        if self.rows is not None:
            yield self.rows
            return
        chosen, path = self._what()
        try:
            with chosen.open(path) as columns:
                check_widths(columns, task.state_dim, task.action_dim)
                yield columns
        except DamagedError as error:
            raise DataError(f"{error} {self.mend}".strip()) from error

    def _what(self) -> tuple[Format, Path]:
        assert self.path is not None
        return (self.format, self.path) if self.format is not None else format_of(str(self.path))


def digest_of_rows(rows: Columns) -> str:
    """SHA-256 of arrays' bytes, in the order of the columns, hexadecimal: that of rows without a file."""
    sha = hashlib.sha256()
    for array in (rows.observations, rows.actions, rows.rewards, rows.terminals, rows.timeouts):
        if array is not None:
            sha.update(np.ascontiguousarray(array[:]).tobytes())
    return sha.hexdigest()
