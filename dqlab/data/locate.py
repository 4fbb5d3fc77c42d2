"""Datasets by name (a task, a path, `FORMAT:NAME`): found, fetched, written in another format, and listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from dqlab.data.bounds import BOUNDS_ADVICE, ActionRange
from dqlab.data.download import Progress, cache_folder, dataset_addresses, minari_store, no_progress
from dqlab.data.formats.base import Columns, Format, format_of
from dqlab.data.formats.hdf5 import CONVERTED
from dqlab.data.formats.minari import stored_datasets
from dqlab.data.formats.ogbench import OGBenchFormat, ogbench_names
from dqlab.data.sources import cache_path, find_dataset
from dqlab.data.survey import Survey
from dqlab.envs import tasks
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, nearest
from dqlab.files import expanded, size_of
from dqlab.machine import in_words
from dqlab.printing import Console

MINARI_SERVER = "https://huggingface.co/datasets/farama-minari/mujoco"
"""Where Minari has its tasks' datasets."""


@dataclass(frozen=True)
class Dataset:
    """A dataset, as it was asked for, that may be there or not: what opens it, what that opens, and whose it is."""

    named: str
    format: Format
    path: Path
    task: Task | None = None

    @property
    def place(self) -> Path:
        """The file or folder that holds it, or would."""
        return self.format.place(self.path)

    def read(self) -> Columns:
        """All rows; raises as `Format.read` does."""
        return self.format.read(self.path)

    def digest(self) -> str:
        return self.format.digest(self.path)


def tasks_with_data() -> list[Task]:
    """The tasks that have a dataset file of D4RL's."""
    return [entry.item for entry in tasks if entry.item.file]


def locate_dataset(dataset: str, task: str | None = None) -> Dataset:
    """A dataset that is there; a DqlabError where nothing of that name is.

    Args:
        dataset: a task's name (its file in D4RL's cache), a path, or `FORMAT:NAME` such as `minari:ID`.
        task: whose data it holds; by default the task of that name, or the one whose file has this file's name.
    """
    found = resolve_dataset(dataset, task)
    if not found.place.exists():
        fetch = f" `dqlab data download {dataset}` fetches it." if dataset in tasks else " Check the name."
        raise DataError(f"There is no dataset at {found.place}.{fetch}")
    return found


def resolve_dataset(dataset: str, task: str | None = None) -> Dataset:
    """A dataset, as `locate_dataset` takes it, whether it is there or not; a ConfigError where it can be none."""
    known = tasks.get(task) if task else None
    if dataset in tasks:
        named = tasks.get(dataset)
        by_task = f"{named.benchmark}:{dataset}" if named.benchmark else ""
        return Dataset(dataset, *format_of(by_task or named.source or str(cache_path(named))), known or named)
    try:
        form, path = format_of(dataset)
    except ConfigError as error:
        if expanded(dataset).exists() or "/" in dataset or "." in dataset:
            raise
        names = [task.name for task in tasks_with_data()]
        raise ConfigError(f"'{dataset}' is neither a task nor a dataset. {nearest(dataset, names)}") from error
    by_name = {Path(task.file).name: task for task in reversed(tasks_with_data())}
    if path.name in tasks:  # of formats that know data by their task
        by_name[path.name] = tasks.get(path.name)
    return Dataset(dataset, form, path, known or by_name.get(path.name))


def conversion_target(dataset: str, task: str | None = None) -> Dataset:
    """What is written under that name; a ConfigError where it is a task's, or no format has that suffix or name."""
    if dataset in tasks:
        raise ConfigError(f"'{dataset}' is a task: its file is D4RL's own, or OGBench's. Name a path.")
    return resolve_dataset(dataset, task)


CACHE, DOWNLOAD = "d4rl_cache", "d4rl_download"  # sources, unless a task names one of its own


def fetch_dataset(
    task: Task, sources: Sequence[str] = (), force: bool = False, progress: Progress = no_progress
) -> str:
    """Fetch a task's dataset from the first source that has it, unless it is in D4RL's cache; what to tell of it.

    Sources are as in load_dataset.sources; by default D4RL's server, or that of the task's own benchmark. A DqlabError
    where none has it. Of rows that a source makes itself only the source's name is told.
    """
    cached = () if force or task.benchmark else (CACHE,)
    found = find_dataset(task, (*cached, *(sources or (task.source or DOWNLOAD,))), progress)
    if (place := found.place) is None:
        return found.source
    known = found.source == CACHE or (found.source == task.benchmark and not found.address)
    there = "already there: " if known else ""
    failed = "".join(f"; not from {why}" for why in found.failed)
    in_cache = place.parent.resolve() == cache_folder().resolve()
    use = "" if in_cache else f"; not in D4RL's cache: train on it with load_dataset.sources=({found.source!r},)"
    return f"{there}{place} ({in_words(size_of(place))}){use}{failed}"


def convert_dataset(source: Dataset, target: Dataset, force: bool = False) -> list[str]:
    """Write `source` as `target`, the task of either being that of both; what was written, and what was lost, to tell.

    A DataError where the target is there, unless by `force`, or is the source; or something cannot be read or written.
    A ConfigError where the target's format is one that is only read.
    """
    if target.place.exists():
        if not force:
            raise DataError(f"{target.place} exists. --force replaces it.")
        if target.place.samefile(source.place):
            raise DataError(f"{target.place} would be read and written at once. Choose another target.")
    task = source.task or target.task
    columns = source.read()
    before = Survey(columns, task)
    said = {CONVERTED: f"{source.named}, SHA-256 {source.digest()}", **columns.metadata}
    timeouts = before.timeouts if columns.timeouts is None and task else columns.timeouts
    target.format.write(target.path, replace(columns, timeouts=timeouts, metadata=said))
    after = Survey(target.read(), task)
    lines = [f"{target.place}: {after.counts}"]
    gone, terminals = before.transitions - after.transitions, int(after.terminals.sum())
    forgets = columns.next_observations is not None and after.columns.next_observations is None
    if gone:
        why = ": it does not say what followed rows at which episodes were cut, or the last row" if forgets else ""
        lines.append(f"Lost: {gone:,} of {before.transitions:,} transition(s){why}.")
    if forgets and terminals:
        lines.append(f"Not kept: the observations after {terminals:,} terminal row(s); nothing is learnt from them.")
    if note := ActionRange(after.columns).note:
        lines.append(f"Note: {note}; for training, {BOUNDS_ADVICE}.")
    return lines


def reading_status(name: str) -> AbstractContextManager[object]:
    """Within this, the terminal shows that a dataset is read."""
    return Console(stderr=True).status(f"reading {name}")


def list_datasets() -> dict[str, list[dict[str, Any]]]:
    """All datasets that have a name: D4RL's, those that ship with dqlab, OGBench's and Minari's.

    Each has a `name`, the `place` where it is or would be, its `size` in bytes (None if it is not there), a `note`, and
    the `addresses` where it can be had.
    """
    embedded = sorted(Path(str(files("dqlab.data") / "embedded")).glob("*.hdf5"))
    ogbench = {OGBenchFormat().place(Path(name)): name for name in sorted(ogbench_names(), reverse=True)}
    there = sorted((place, name) for place, name in ogbench.items() if place.exists())  # each by one of its tasks
    return {
        "d4rl": [_of_task(task) for task in tasks_with_data()],
        "embedded": [_listing(path.stem, path, "ships with dqlab; not D4RL's") for path in embedded],
        "ogbench": [_listing(name, place, "there, for all its tasks") for place, name in there],
        "minari": _of_minari(),
    }


def print_datasets(console: Console) -> None:
    """Print `list_datasets` as a table."""
    places = f"D4RL's cache: {cache_folder()}\nMinari's store: {minari_store()}"
    table = Table(title="Datasets", title_justify="left", caption=places, caption_justify="left")
    for head in ("dataset", "size", "what is there", "can be had from"):
        table.add_column(head, overflow="fold", no_wrap=head in ("dataset", "size"))
    for listed in list_datasets().values():
        for item in listed:
            size = "-" if item["size"] is None else in_words(item["size"])
            servers = ", ".join(str(urlsplit(address).hostname) for address in item["addresses"])
            table.add_row(*map(Text, (item["name"], size, item["note"], servers)))
        table.add_section()
    console.print(table)


def _listing(name: str, place: Path, note: str, addresses: Iterable[str] = ()) -> dict[str, Any]:
    size = size_of(place) if place.exists() else None
    return {"name": name, "place": str(place), "size": size, "note": note, "addresses": tuple(addresses)}


def _of_task(task: Task) -> dict[str, Any]:
    path = cache_path(task)
    part = path.with_name(f"{path.name}.part")
    note = "cached" if path.exists() else "download broke off; continue it" if part.exists() else "not here"
    return _listing(task.name, path, note, dataset_addresses(task))


def _of_minari() -> list[dict[str, Any]]:
    named = {entry.item.minari: entry.name for entry in tasks if entry.item.minari}
    stored, listed = stored_datasets(), []
    for name in {**named, **stored}:
        note = "not here"
        if name in stored:
            steps, episodes = (stored[name].get(f"total_{what}", "?") for what in ("steps", "episodes"))
            note = f"{steps} steps, {episodes} episodes"
        servers = (MINARI_SERVER,) if name in named else ()
        listed.append(_listing(named.get(name, f"minari:{name}"), minari_store() / name, note, servers))
    return listed
