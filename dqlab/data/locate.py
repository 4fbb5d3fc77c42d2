"""Which dataset is meant by a name (a task, a path, `FORMAT:NAME`), and which there are (`dqlab data list`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from dqlab.data.download import dataset_addresses
from dqlab.data.formats.base import Columns, Format, format_of
from dqlab.data.formats.minari_store import local_store, stored_datasets
from dqlab.data.sources import cache_path
from dqlab.envs import tasks
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, nearest
from dqlab.files import expanded, size_of
from dqlab.machine import in_words
from dqlab.printing import Console


@dataclass(frozen=True)
class Dataset:
    """A dataset that may be there or not.

    Attributes:
        named: as it was asked for.
        format, path: what opens it, and what that opens.
        task: whose data it holds, where that is known.
    """

    named: str
    format: Format
    path: Path
    task: Task | None = None

    @property
    def place(self) -> Path:
        """The file or folder that holds it, or would."""
        return self.format.place(self.path)

    @property
    def size(self) -> int:
        return size_of(self.place)

    def read(self) -> Columns:
        """All rows; raises as `Format.read` does."""
        return self.format.read(self.path)

    def digest(self) -> str:
        return self.format.digest(self.path)


def tasks_with_data() -> list[Task]:
    """The tasks that have a dataset file."""
    return [entry.item for entry in tasks if entry.item.file]


def task_of(name: str) -> Task:
    """A task by its name.

    Raises:
        ConfigError: there is none; the message names the nearest ones.
    """
    if name not in tasks:
        raise ConfigError(f"There is no task '{name}'. {nearest(name, tasks.names())}")
    return tasks.get(name)


def locate_dataset(dataset: str, task: str | None = None) -> Dataset:
    """A dataset that is there.

    Args:
        dataset: a task's name (its file in D4RL's cache), a path, or `FORMAT:NAME` such as `minari:ID`.
        task: whose data it holds; by default the task of that name, or the one whose file has this file's name.

    Raises:
        DqlabError: nothing of that name is there.
    """
    found = resolve_dataset(dataset, task)
    if not found.place.exists():
        fetch = f" `dqlab data download {dataset}` fetches it." if dataset in tasks else " Check the name."
        raise DataError(f"There is no dataset at {found.place}.{fetch}")
    return found


def resolve_dataset(dataset: str, task: str | None = None) -> Dataset:
    """A dataset, whether it is there or not.

    Args:
        dataset, task: as `locate_dataset` takes them.

    Raises:
        ConfigError: it is no task's name, and no format has that suffix or name.
    """
    known = task_of(task) if task else None
    if dataset in tasks:
        known = known or tasks.get(dataset)
        path = cache_path(tasks.get(dataset))
        return Dataset(dataset, format_of(str(path))[0], path, known)
    try:
        form, path = format_of(dataset)
    except ConfigError as error:
        if expanded(dataset).exists() or "/" in dataset:
            raise
        names = [task.name for task in tasks_with_data()]
        raise ConfigError(f"'{dataset}' is neither a task nor a dataset. {nearest(dataset, names)}") from error
    return Dataset(dataset, form, path, known or _by_file_name(path))


def conversion_target(dataset: str, task: str | None = None) -> Dataset:
    """What is written under that name.

    Raises:
        ConfigError: it is a task's name, whose file is D4RL's own; or as `resolve_dataset` does.
    """
    if dataset in tasks:
        raise ConfigError(f"'{dataset}' is a task: its file in D4RL's cache is D4RL's own. Name a path.")
    return resolve_dataset(dataset, task)


def _by_file_name(path: Path) -> Task | None:
    return next((task for task in tasks_with_data() if Path(task.file).name == path.name), None)


def reading_status(name: str) -> AbstractContextManager[object]:
    """Within this, the terminal shows that a dataset is read."""
    return Console(stderr=True).status(f"reading {name}")


@dataclass(frozen=True)
class DatasetListing:
    """What `dqlab data list` says of one dataset.

    Attributes:
        name: what it is called on the command line.
        place: where it is, or would be.
        size: its bytes; None if it is not there.
        note: what is there.
        addresses: where it can be had.
    """

    name: str
    place: str
    size: int | None
    note: str = ""
    addresses: tuple[str, ...] = ()


def list_datasets() -> dict[str, list[DatasetListing]]:
    """All datasets that have a name: D4RL's, those that ship with dqlab, Minari's local ones."""
    return {"d4rl": _tasks(), "embedded": _embedded(), "minari": _minari()}


def listings_as_dicts() -> dict[str, Any]:
    """`list_datasets` as plain values, for JSON."""
    return {kind: [asdict(item) for item in items] for kind, items in list_datasets().items()}


def print_datasets(console: Console) -> None:
    """Print `list_datasets` as tables."""
    found = list_datasets()
    cached = [item for item in found["d4rl"] if item.size is not None]
    folder = Path(found["d4rl"][0].place).parent
    caption = f"cache: {folder}; {len(cached)} of {len(found['d4rl'])} are there"
    console.print(_table("Tasks with a dataset of D4RL's", found["d4rl"], caption))
    console.print(_table("Small sets that ship with dqlab (not D4RL)", found["embedded"], ""))
    caption = f"store: {local_store()}"
    if found["minari"]:
        console.print(_table("Minari's datasets on this machine", found["minari"], caption))
    else:
        console.print(Text(f"Minari's datasets on this machine: none ({caption})."), soft_wrap=True)


def _tasks() -> list[DatasetListing]:
    found = []
    for task in tasks_with_data():
        path = cache_path(task)
        there = path.exists()
        part = path.with_name(f"{path.name}.part")
        note = "cached" if there else "download broke off; continue it" if part.exists() else "not here"
        size = path.stat().st_size if there else None
        found.append(DatasetListing(task.name, str(path), size, note, tuple(dataset_addresses(task))))
    return found


def _embedded() -> list[DatasetListing]:
    folder = Path(str(files("dqlab.data") / "embedded"))
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".hdf5")
    return [DatasetListing(path.stem, str(path), path.stat().st_size, str(path)) for path in paths]


def _minari() -> list[DatasetListing]:
    found = []
    for name, known in stored_datasets().items():
        note = f"{known.get('total_steps', '?')} steps, {known.get('total_episodes', '?')} episodes"
        found.append(DatasetListing(f"minari:{name}", str(local_store() / name), size_of(local_store() / name), note))
    return found


def _table(title: str, items: list[DatasetListing], caption: str) -> Table:
    table = Table(title=title, caption=Text(caption) if caption else None, caption_justify="left", title_justify="left")
    table.add_column("dataset", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("what is there", overflow="fold")
    table.add_column("can be had from", overflow="fold")
    for item in items:
        size = "-" if item.size is None else in_words(item.size)
        servers = ", ".join(str(urlsplit(address).hostname) for address in item.addresses)
        table.add_row(*map(Text, (item.name, size, item.note, servers)))
    return table
