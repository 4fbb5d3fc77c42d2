"""Files under D4RL's names that are not D4RL's: what dqlab wrote says so in its metadata."""

from __future__ import annotations

from pathlib import Path

from dqlab.data.formats.hdf5 import Notes
from dqlab.errors import DataError

PROVENANCE, CONVERTED = "provenance", "converted_from"
COLLECTED = "Collected by dqlab"


def is_d4rls(path: Path) -> bool:
    """Whether nothing in an HDF5 file's metadata says that dqlab collected it, or wrote it from another format."""
    notes = Notes(path)
    try:
        return CONVERTED not in notes and not notes.get(PROVENANCE, "").startswith(COLLECTED)
    except DataError:  # damaged: whoever reads the rows says so
        return True
