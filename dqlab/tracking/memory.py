"""What a mirror remembers between two sendings: a JSON file that belongs to one MLflow store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.files import write_text
from dqlab.printing import masked
from dqlab.records import REMEDIES, MemoryRecord, damaged, read


class Memory:
    """A JSON file beside what is sent; what it says of another store, or of another grid's run, is forgotten.

    Args:
        path: the file.
        uri: MLflow's tracking URI.
        empty: what is remembered of a store that has got nothing yet.
        grid: id of the grid's run, of what is remembered below it.

    Raises:
        RunError: the file is damaged.

    Attributes:
        state: what is remembered.
        forgotten: what was remembered of another store.
    """

    def __init__(self, path: Path, uri: str, empty: Mapping[str, Any], grid: str = "") -> None:
        self.path = path
        known: dict[str, Any] = {**read(path, MemoryRecord)} if path.exists() else {}
        for name in known.keys() & empty.keys():
            if type(known[name]) is not type(empty[name]):
                raise damaged(path, ValueError(f"{name} is of another kind"), REMEDIES[MemoryRecord])
        place = {"uri": masked(uri), "grid": grid}
        same = masked(known.get("uri", "")) == place["uri"] and known.get("grid", grid) == grid
        self.state = {**empty, **(known if same else {}), **place}
        self.forgotten = {} if same else known

    def save(self) -> None:
        """Remember."""
        write_text(self.path, json.dumps(self.state, indent=1))
