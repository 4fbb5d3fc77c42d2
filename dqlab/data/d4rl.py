"""D4RL's files as whole arrays: for what is small, and for writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.blocks import flags, floats
from dqlab.data.formats.base import Columns
from dqlab.data.formats.checking import check_widths
from dqlab.data.formats.d4rl import D4RL
from dqlab.data.formats.hdf5_writing import write_hdf5


def read_d4rl(path: Path, state_dim: int | None = None, action_dim: int | None = None) -> Columns:
    """Read and check a D4RL HDF5 file: float32 arrays, and flags as booleans.

    Args:
        path: the file.
        state_dim, action_dim: S and A of the task, checked where given.

    Raises:
        DataError: the file is missing, truncated or not HDF5; a key is missing; shapes disagree with each other or
            with the task; a dtype is not numeric; a value is NaN or infinite (its row is named).
    """
    with D4RL().open(path) as columns:
        check_widths(columns, state_dim, action_dim)
        where = columns.where
        timeouts = None if columns.timeouts is None else flags(where, "timeouts", columns.timeouts)
        tables: dict[str, Any] = {
            name: floats(where, name, getattr(columns, name)) for name in ("observations", "actions", "rewards")
        }
        terminals = flags(where, "terminals", columns.terminals)
        return Columns(
            **tables, terminals=terminals, timeouts=timeouts, metadata=columns.metadata, extras={}, where=where
        )


def write_d4rl(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a D4RL file: `arrays` by name, and `metadata/<name>` strings; compressed; whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    write_hdf5(path, {name: np.asarray(array) for name, array in arrays.items()}, metadata)
