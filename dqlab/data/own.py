"""Files under D4RL's names that are not D4RL's: excerpts, and what dqlab wrote, which says so in its metadata."""

from __future__ import annotations

from pathlib import Path

from dqlab.data.formats.d4rl import D4RL
from dqlab.envs.tasks import Task
from dqlab.errors import DataError

PROVENANCE, CONVERTED = "provenance", "converted_from"
COLLECTED = "Collected by dqlab"

SHARE = 0.5
"""Of the rows that D4RL's file has: with fewer, a file is an excerpt."""


def is_d4rls(path: Path, task: Task) -> bool:
    """Whether nothing speaks against an HDF5 file being D4RL's.

    What speaks against it: it has far fewer rows, or its metadata say that dqlab collected it or wrote it from another
    format.
    """
    try:
        with D4RL().open(path) as columns:
            notes, rows = dict(columns.metadata), len(columns)
    except DataError:  # damaged: whoever reads the rows says so
        return True
    ours = CONVERTED in notes or notes.get(PROVENANCE, "").startswith(COLLECTED)
    return not ours and rows >= SHARE * task.rows
