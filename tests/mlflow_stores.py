"""Local MLflow stores for tests: making the tables takes seconds, a copy of them does not."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from dqlab.tracking.mlflow.client import mlflow_client


def fresh_store(folder: Path, name: str = "mlflow.db") -> str:
    """The URI of a store with nothing in it, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_tables(), folder / name)
    return f"sqlite:///{folder / name}"


@cache
def _tables() -> Path:
    path = Path(tempfile.mkdtemp(prefix="mlflow-tables-")) / "empty.db"
    mlflow_client(f"sqlite:///{path}").search_experiments()
    return path
