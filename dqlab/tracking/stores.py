"""MLflow's stores in SQLite files: their addresses, and how one comes to be, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

from dqlab.files import remove_leftovers

ODD = set("?#%")
"""Characters of paths that mean something else in an address."""


def store_uri(path: Path) -> str:
    """The address of a store; that of one in a folder such as `50%?` names SQLite's driver too.

    SQLAlchemy decodes what is encoded here, but MLflow makes folders called as it is written, unless a driver is named.
    """
    return f"sqlite+pysqlite:///{quote(str(path))}" if ODD & set(str(path)) else f"sqlite:///{path}"


def store_path(uri: str) -> Path | None:
    """The file that an address names; None where it is no SQLite store's."""
    scheme, slashes, rest = uri.partition(":///")
    return Path(unquote(rest.partition("?")[0])) if slashes and scheme.partition("+")[0] == "sqlite" else None


def make_store(path: Path) -> None:
    """Make a store with nothing in it: what is cut off while MLflow makes its tables can no longer be used."""
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.glob(f".{path.name}.*.tmp"))
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        MlflowClient(tracking_uri=store_uri(folder / path.name)).search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process has made one meanwhile
            os.link(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
