"""Minari's local store: which datasets are there, whole or not, and how one is opened."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqlab.data.formats.reading import UnreadError, reading_error
from dqlab.errors import ConfigError, DataError, first_line, nearest
from dqlab.files import expanded

VARIABLE = "MINARI_DATASETS_PATH"
METADATA = "metadata.json"
MAIN_FILE = "main_data.hdf5"


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


def folder_of(name: str) -> Path:
    """Where the dataset of this id lies, or would lie.

    Raises:
        DataError: no dataset can have such an id.
    """
    minari_package()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # TypeError: there is no version
        why = "it has no -vVERSION" if isinstance(error, TypeError) else str(error).rstrip(".")
        raise DataError(
            f"'{name}' is no id of a Minari dataset: {why}. Namespace and name are letters, digits, - and _, of a "
            "namespace two at least: mujoco/walker2d/medium-v0, for example."
        ) from error
    return local_store() / name


def stored_facts(folder: Path) -> dict[str, Any]:
    """What the metadata of a dataset's folder says; empty where there is none, or it cannot be read."""
    try:
        found = json.loads((folder / "data" / METADATA).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(folder: Path) -> bool:
    """Whether everything is there that the metadata speaks of: a download may have broken off."""
    known = stored_facts(folder)
    if not known:
        return False
    data, episodes = folder / "data", known.get("total_episodes")
    if not isinstance(episodes, int):  # of another program, or of one that broke off
        return False
    if (data / MAIN_FILE).exists():
        return True
    return episodes > 0 and all(any((data / str(episode)).glob("*")) for episode in range(episodes))


def check_version(name: str) -> None:
    """See that the installed Minari reads datasets of the version that has written this one.

    Raises:
        DataError: it does not. The dataset may be intact.
    """
    minari, folder = minari_package(), folder_of(name)
    by, reads = stored_facts(folder).get("minari_version"), minari.supported_dataset_versions
    if by is not None and by not in reads:
        raise UnreadError(
            f"The Minari dataset '{name}' in {folder} was written by Minari {by}; the installed {minari.__version__} "
            f"reads those of {', '.join(map(str, sorted(reads)))}. Install another version of Minari, or fetch the "
            "dataset again with this one."
        )


def local_ids() -> list[str]:
    """The ids of the whole datasets in the store, sorted; Minari need not be installed."""
    found = (path.parent.parent for path in local_store().rglob(f"data/{METADATA}"))
    names = ((folder.relative_to(local_store()), folder) for folder in found)
    return sorted(
        name.as_posix() for name, folder in names if not any(p.startswith(".") for p in name.parts) and is_whole(folder)
    )


def check_local(name: str) -> None:
    """See that a dataset is in the store, and of a version that the installed Minari reads.

    Raises:
        DataError: it is not.
    """
    folder = folder_of(name)
    if not folder.exists():
        known = local_ids()
        hint = nearest(name, known) if known else "The store is empty."
        raise DataError(
            f"There is no Minari dataset '{name}' in {local_store()}. {hint} `minari download {name}` fetches it."
        )
    check_version(name)


def open_local(name: str) -> Any:
    """A local dataset as Minari opens it.

    Raises:
        DataError: it is damaged.
    """
    with minari_errors(name):
        return minari_package().load_dataset(name)


@contextmanager
def minari_errors(name: str) -> Iterator[None]:
    """Whatever Minari and its storages raise while they read becomes one message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:  # of storages, spaces and environments
        where = f"The Minari dataset '{name}' in {folder_of(name)}"
        if type(error).__module__.startswith("gymnasium."):
            raise UnreadError(
                f"{where} names an environment that is not known here ({first_line(error)}). Import the module that "
                "registers it: --plugin MODULE."
            ) from error
        raise reading_error(where, "cannot be read: it is damaged, or not Minari's", error) from error
