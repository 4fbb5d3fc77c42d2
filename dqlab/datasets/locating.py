"""Which dataset is meant: a task's name, a path, or `FORMAT:NAME`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dqlab.data.formats.base import Columns, Format
from dqlab.data.formats.choosing import format_of
from dqlab.data.sources import cache_path
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError, DataError, nearest
from dqlab.files import expanded, size_of


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
        """Its file or folder."""
        return self.format.place(self.path)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return size_of(self.place)

    def open(self) -> AbstractContextManager[Columns]:
        """Its columns; raises as `Format.open` does."""
        return self.format.open(self.path)

    def digest(self) -> str:
        """SHA-256, as its format has it."""
        return self.format.digest(self.path)


def with_data() -> list[Task]:
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


def find(dataset: str, task: str | None = None) -> Dataset:
    """A dataset that is there.

    Args:
        dataset: a task's name (its file in D4RL's cache), a path, or `FORMAT:NAME` such as `minari:ID`.
        task: whose data it holds; by default the task of that name, or the one whose file has this file's name.

    Raises:
        DqlabError: nothing of that name is there.
    """
    found = name_it(dataset, task)
    if not found.place.exists():
        fetch = f" `dqlab data download {dataset}` fetches it." if dataset in tasks else " Check the name."
        raise DataError(f"There is no dataset at {found.place}.{fetch}")
    return found


def name_it(dataset: str, task: str | None = None) -> Dataset:
    """The same, whether it is there or not.

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
        raise ConfigError(
            f"'{dataset}' is neither a task nor a dataset. {nearest(dataset, [task.name for task in with_data()])}"
        ) from error
    return Dataset(dataset, form, path, known or _by_file_name(path))


def target_of(dataset: str, task: str | None = None) -> Dataset:
    """What is written under that name.

    Raises:
        ConfigError: it is a task's name, whose file is D4RL's own; or as `name_it` does.
    """
    if dataset in tasks:
        raise ConfigError(
            f"'{dataset}' is a task: its file in D4RL's cache is D4RL's own. Name a path; your copy of D4RL's file is "
            f"put there by `dqlab data import FILE {dataset}`."
        )
    return name_it(dataset, task)


def _by_file_name(path: Path) -> Task | None:
    return next((task for task in with_data() if Path(task.file).name == path.name), None)
