"""D4RL's HDF5 layout.

`observations` (n, S), `actions` (n, A), `rewards` (n,), `terminals` (n,), usually `timeouts` (n,), and `metadata/...`;
`next_observations` and `infos/...` may be there and are not read, as D4RL does not read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dqlab.data.formats.base import Columns, Format, data_formats
from dqlab.data.formats.checking import KNOWN, REQUIRED, check_names, checked
from dqlab.data.formats.hdf5 import Notes, open_hdf5
from dqlab.data.formats.hdf5_writing import write_hdf5

READ = (*REQUIRED, "timeouts")


@data_formats.register("d4rl", source="D4RL 1.1 (Fu et al. 2020)")
class D4RL(Format):
    """HDF5 as D4RL lays it out; rows at which an episode was cut are dropped, for what followed them is not read."""

    suffixes = (".hdf5", ".h5")

    @contextmanager
    def open(self, path: Path) -> Iterator[Columns]:
        """The columns of a file."""
        with open_hdf5(path, partial(check_names, str(path)), READ) as arrays:
            yield checked(str(path), arrays, Notes(path))

    def write(self, path: Path, columns: Columns) -> None:
        """Write all columns compressed, `next_observations` too where they are known, and the extras."""
        arrays = {**{name: getattr(columns, name) for name in KNOWN}, **columns.extras}
        write_hdf5(path, {name: array for name, array in arrays.items() if array is not None}, columns.metadata)
