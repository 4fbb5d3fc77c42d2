"""What a mirror remembers between two sendings: a JSON file that belongs to one MLflow store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.files import write_text


class Memory:
    """A JSON file beside what is sent; what it says of another store, or of another grid's run, is forgotten.

    Args:
        path: the file.
        uri: MLflow's tracking URI.
        empty: what is remembered of a store that has got nothing yet.
        grid: id of the grid's run, of what is remembered below it.

    Attributes:
        state: what is remembered.
        forgotten: what was remembered of another store.
    """

    def __init__(self, path: Path, uri: str, empty: Mapping[str, Any], grid: str = "") -> None:
        self.path = path
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        same = known.get("uri") == uri and known.get("grid", grid) == grid
        self.state, self.forgotten = (known, {}) if same else ({"uri": uri, "grid": grid, **empty}, known)

    def save(self) -> None:
        """Remember."""
        write_text(self.path, json.dumps(self.state, indent=1))
