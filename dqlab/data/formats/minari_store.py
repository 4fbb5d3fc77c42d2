"""Minari's local store: what lies there, and how it is opened."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dqlab.data.formats.reading import UnreadError, reading_error
from dqlab.errors import ConfigError, DataError, first_line, nearest
from dqlab.files import expanded

VARIABLE = "MINARI_DATASETS_PATH"


def minari_package() -> Any:
    """The package `minari`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise ConfigError(
            f"Minari's datasets need the package minari ({error}): pip install 'dqlab[minari]' (Python 3.11 or later)."
        ) from error
    if VARIABLE in os.environ:
        os.environ[VARIABLE] = str(local_store())  # minari takes ~ for a folder's name
    return minari


def local_store() -> Path:
    """Where Minari keeps its datasets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return expanded(os.environ.get(VARIABLE) or "~/.minari/datasets")


def stored_datasets() -> Mapping[str, Mapping[str, Any]]:
    """Metadata of the datasets in the store, by id; Minari need not be installed."""
    found = {}
    for path in sorted(local_store().rglob("data/metadata.json")):
        with suppress(OSError, ValueError):
            name = path.parent.parent.relative_to(local_store()).as_posix()
            known = json.loads(path.read_text())
            if isinstance(known, dict) and "total_steps" in known:  # not another program's
                found[name] = known
    return found


def open_local(name: str) -> Any:
    """A dataset of the store as Minari opens it.

    Raises:
        DataError: it is not there, damaged, or not for the installed version.
    """
    minari = minari_package()
    if not (local_store() / name).exists():
        known = stored_datasets()
        hint = nearest(name, list(known)) if known else "The store is empty."
        raise DataError(
            f"There is no Minari dataset '{name}' in {local_store()}. {hint} `minari download {name}` fetches it."
        )
    with minari_errors(name):
        return minari.load_dataset(name)


@contextmanager
def minari_errors(name: str) -> Iterator[None]:
    """Whatever Minari and its storages raise while they read becomes one message."""
    where = f"The Minari dataset '{name}' in {local_store() / name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:  # of storages, spaces and environments
        if "does not support the dataset" in str(error):
            raise UnreadError(f"{where} is of another version: {first_line(error)}") from error
        if type(error).__module__.startswith("gymnasium."):
            raise UnreadError(
                f"{where} names an environment that is not known here ({first_line(error)}). Import the module that "
                "registers it: --plugin MODULE."
            ) from error
        raise reading_error(where, "cannot be read: it is damaged, or not Minari's", error) from error
