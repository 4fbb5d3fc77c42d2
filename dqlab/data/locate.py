"""Datasets by name (a task, a path, `FORMAT:NAME`): found, fetched, converted, listed, checked and described."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic_core import to_json
from rich.table import Column, Table
from rich.text import Text

from dqlab.data.download import Progress, cache_folder, dataset_addresses, digest_fault, minari_store, no_progress
from dqlab.data.formats.base import (
    CONVERTED,
    Columns,
    Format,
    UnreadError,
    format_of,
    signs_of_another_task,
    whole_columns,
)
from dqlab.data.formats.minari import stored_datasets
from dqlab.data.formats.ogbench import OGBenchFormat, ogbench_names
from dqlab.data.sources import cache_path, embedded_sets, find_dataset
from dqlab.data.transitions import BOUNDS_ADVICE, ActionRange, cuts_of, transition_rows
from dqlab.envs import tasks
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError, message_of, nearest, printable, printable_name
from dqlab.files import expanded, size_of
from dqlab.machine import in_words
from dqlab.printing import Console

MINARI_SERVER = "https://huggingface.co/datasets/farama-minari/mujoco"  # where Minari has its tasks' datasets
CACHE, DOWNLOAD = "d4rl_cache", "d4rl_download"  # sources, unless a task names one of its own
MOST_TEXT = 300
SATURATED = 0.99  # actions of larger size count as saturated
NUMBERS = ("observations", "actions", "rewards", "next_observations")


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

    The name is a task's (its file in D4RL's cache), a path, that of a set which ships with dqlab, or `FORMAT:NAME` such
    as `minari:ID`. `task` says whose data it holds: by default the task of that name, or the one whose file has this
    file's name.
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
    if known and known.benchmark:  # whose format knows its data by the task: FORMAT:FOLDER, FOLDER, or the file
        place = expanded(dataset.removeprefix(f"{known.benchmark}:")).absolute()
        form, path = format_of(f"{known.benchmark}:{(place if place.is_dir() else place.parent) / known.name}")
        if place.is_dir() or place == form.place(path):
            return Dataset(dataset, form, path, known)
    try:
        form, path = format_of(str(embedded_sets().get(dataset, dataset)))
    except ConfigError as error:
        if expanded(dataset).exists() or "/" in dataset or "." in dataset:
            raise
        names = [*embedded_sets(), *(task.name for task in tasks_with_data())]
        raise ConfigError(f"'{dataset}' is neither a task nor a dataset. {nearest(dataset, names)}") from error
    by_name = {Path(task.file).name: task for task in reversed(tasks_with_data())}
    if path.name in tasks:  # of formats that know data by their task
        by_name[path.name] = tasks.get(path.name)
    return Dataset(dataset, form, path, known or by_name.get(path.name))


def fetch_dataset(
    task: Task, sources: Sequence[str] = (), force: bool = False, progress: Progress = no_progress
) -> str:
    """Fetch a task's dataset from the first source that has it, unless it is in D4RL's cache; what to tell of it.

    Sources are as in load_dataset.sources; by default the task's own, or D4RL's server. A DqlabError where none has it.
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
    A ConfigError where the target is a task's own, or of a format that is only read.
    """
    if target.named in tasks:
        raise ConfigError(f"'{target.named}' is a task: its file is D4RL's own, or OGBench's. Name a path.")
    if target.place.exists():
        if not force:
            raise DataError(f"{target.place} exists. --force replaces it.")
        if target.place.samefile(source.place):
            raise DataError(f"{target.place} would be read and written at once. Choose another target.")
    task = source.task or target.task
    columns = source.read()
    before = Survey(columns, task)
    said = {CONVERTED: f"{source.named}, SHA-256 {source.digest()}", **columns.metadata}
    timeouts = before.timeouts if columns.timeouts is None and before.cuts != "unknown" else columns.timeouts
    target.format.write(target.path, replace(columns, timeouts=timeouts, metadata=said))
    after = Survey(target.read(), task)
    lines = [f"{target.place}: {after.counts}"]
    if gone := before.transitions - after.transitions:
        why = "it does not say what followed rows at which episodes were cut, or the last row"
        lines.append(f"Lost: {gone:,} of {before.transitions:,} transition(s): {why}.")
    return lines


def reading_status(name: str) -> AbstractContextManager[object]:
    """Within this, the terminal shows that a dataset is read."""
    return Console(stderr=True).status(f"reading {name}")


def list_datasets() -> dict[str, list[dict[str, Any]]]:
    """All datasets that have a name, by whose they are: where each is, or would be, and its `size` if it is there."""
    listed: dict[str, list[dict[str, Any]]] = {"embedded": [], "d4rl": [], "ogbench": [], "minari": []}

    def add(family: str, name: str, place: Path, note: str, addresses: Iterable[str] = ()) -> None:
        row = {"name": name, "place": str(place), "size": size_of(place) if place.exists() else None, "note": note}
        listed[family].append({**row, "addresses": tuple(addresses)})

    for task in tasks_with_data():
        path = cache_path(task)
        begun = "download broke off; continue it" if path.with_name(f"{path.name}.part").exists() else "not here"
        add("d4rl", task.name, path, "cached" if path.exists() else begun, dataset_addresses(task))
    for name, path in embedded_sets().items():
        add("embedded", name, path, "ships with dqlab; not D4RL's")
    ogbench = {OGBenchFormat().place(Path(name)): name for name in sorted(ogbench_names(), reverse=True)}
    for path, name in sorted(ogbench.items()):  # each by one of its tasks
        if path.exists():
            add("ogbench", name, path, "there, for all its tasks")
    named, stored = {entry.item.minari: entry.name for entry in tasks if entry.item.minari}, stored_datasets()
    for name in {**named, **stored}:
        steps, episodes = (stored.get(name, {}).get(f"total_{what}", "?") for what in ("steps", "episodes"))
        note = f"{steps} steps, {episodes} episodes" if name in stored else "not here"
        servers = (MINARI_SERVER,) if name in named else ()
        add("minari", named.get(name, f"minari:{name}"), minari_store() / name, note, servers)
    return listed


def print_datasets(console: Console) -> None:
    """Print `list_datasets`: a table of what is here, or has begun to be; by servers the names of what can be had."""
    columns = [Column(head, overflow="fold", no_wrap=head != "there") for head in ("dataset", "size", "there")]
    options: Any = {"title_justify": "left", "box": None, "pad_edge": False}  # no name is broken in 80 columns
    table, elsewhere = Table(*columns, title="Datasets here", **options), dict[tuple[str, ...], list[str]]()
    for listed in list_datasets().values():
        for item in listed:
            if item["note"] == "not here":
                servers = tuple(str(urlsplit(address).hostname) for address in item["addresses"])
                elsewhere.setdefault(servers, []).append(item["name"])
            else:
                size = "-" if item["size"] is None else in_words(item["size"])
                table.add_row(*map(Text, (item["name"], size, item["note"])))
    console.print(table)
    for servers, names in elsewhere.items():
        console.say("")
        console.say(f"Not here; `dqlab data download NAME` fetches them from {' or '.join(servers)}:", style="italic")
        console.say(", ".join(names))
    console.print(f"\nD4RL's cache: {cache_folder()}\nMinari's store: {minari_store()}", soft_wrap=True)


def report_findings(name: str, task: str | None = None) -> bool:
    """Read a dataset of `locate_dataset`, print a line for each finding, and return whether it is damaged.

    A DqlabError where there is no such dataset, or it cannot be read now, or here: it is in use, say.
    """
    dataset = locate_dataset(name, task)
    with reading_status(name):
        try:
            digest = dataset.digest()
            found = Survey(dataset.read(), dataset.task)
            damage, notes = find_faults(found)
            damage = [*filter(None, [digest_fault(dataset.place, digest)]), *damage]
            sound = [] if damage else [f"{found.counts}, SHA-256 {digest}"]
        except UnreadError:
            raise
        except DataError as error:
            damage, notes, sound = [printable(message_of(error))], [], []
    for kind, texts in (("damage", damage), ("note", notes), ("sound", sound)):
        for text in texts:
            print(f"{name}: {kind}: {text}")
    return bool(damage)


def print_info(name: str, task: str | None = None, as_json: bool = False) -> None:
    """Read a dataset of `locate_dataset` and print what is known of it, as a table or as JSON; or a DqlabError."""
    dataset = locate_dataset(name, task)
    with reading_status(name):
        found = Survey(dataset.read(), dataset.task)
        known = describe_dataset(dataset, found, dataset.digest())
    if as_json:
        print(to_json(known, indent=1, inf_nan_mode="null").decode())
        return
    table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False)
    for title, value in known.items():
        for part, said in (value if title in ("columns", "metadata") else {"": value}).items():
            table.add_row(Text(f"{title.replace('_', ' ')} {printable_name(part)}".rstrip()), Text(_as_text(said)))
    Console().print(table)


def describe_dataset(dataset: Dataset, found: Survey, digest: str) -> dict[str, Any]:
    """Everything that is known of a dataset, as plain values; ends of a column without a finite value are None."""
    columns, task, there = found.columns, found.task, whole_columns(found.columns).items()
    known: dict[str, Any] = {
        "dataset": dataset.named,
        "place": str(dataset.place),
        "bytes": size_of(dataset.place),
        "sha256": digest,
        "task": task.name if task else None,
        "rows": len(columns),
        "transitions": found.transitions,
        "episodes": len(found.lengths),
        "unfinished_rows": found.unfinished,
        "terminals": int(found.terminals.sum()),
        "timeouts": int(found.timeouts.sum()),
        "timeouts_from": found.cuts,
        "masked": 0 if columns.masks is None else int((columns.masks == 0).sum()),
        "columns": {name: {"shape": column.shape, "dtype": str(column.dtype)} for name, column in there},
        "action_saturation": (np.abs(columns.actions) > SATURATED).mean(axis=0).tolist(),
        "episode_length": describe_values(found.lengths),
        "episode_return": describe_values(found.returns),
        "metadata": dict(columns.metadata),
    }
    for name, values in found.values.items():
        low, high = (float(end) if math.isfinite(end) else None for end in (values.low.min(), values.high.max()))
        known["columns"][name] |= {"nan": values.nans, "infinite": values.infinities, "min": low, "max": high}
    if task and task.scored and not task.measures_success:
        known["normalised_score"] = describe_values(task.score(found.returns))
    return known


def describe_values(values: NDArray[Any]) -> dict[str, float]:
    """Least, quartiles, greatest, mean and standard deviation of the finite ones; empty where there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {}
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    found = dict(zip(names, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))
    return {**found, "mean": float(values.mean()), "std": float(values.std())}


def _as_text(value: Any) -> str:
    """A value for people: texts are cut, for metadata may be pages long."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_as_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):  # a shape is a tuple
        return (" x " if isinstance(value, tuple) else " | ").join(map(_as_text, value))
    if isinstance(value, (int, float)):
        return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
    text = str("unknown" if value is None else value)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text):,} characters; --json has all)"


class Survey:
    """A dataset, cut into episodes: by `cuts_of`, with the step limit of its task where that is known.

    `cuts` says where `timeouts` are known from. `lengths` and `returns` are of every episode that ends.
    """

    def __init__(self, columns: Columns, task: Task | None = None) -> None:
        self.columns, self.task, self.terminals = columns, task, columns.terminals.astype(bool)
        recorded = None if columns.timeouts is None else columns.timeouts.astype(bool)
        limit = task.episode_limit if task else None
        self.timeouts, self.cuts = cuts_of(columns, self.terminals, recorded, limit)
        last = np.flatnonzero(self.terminals | self.timeouts)
        self.lengths, self.returns = np.diff(last, prepend=-1), np.zeros(0)
        if len(last):  # what is not finite stays in its episode
            rewards, starts = columns.rewards[: last[-1] + 1].astype(np.float64), np.append(0, last[:-1] + 1)
            self.returns = np.add.reduceat(rewards, starts)
        self.unfinished = len(columns) - int(self.lengths.sum())  # rows after the last end
        self.transitions = int(transition_rows(columns, self.timeouts).sum())
        self.counts = f"{len(columns):,} rows, {self.transitions:,} transitions, {len(self.lengths):,} episodes"
        self.values = {name: ValueCounts(each) for name, each in whole_columns(columns).items() if name in NUMBERS}


class ValueCounts:
    """NaNs and infinities in a column (n, ...), the rows that have some, and each dimension's range of other values."""

    def __init__(self, column: NDArray[Any]) -> None:
        table = column.reshape(len(column), -1).astype(np.result_type(column.dtype, np.float32), copy=False)
        finite = np.isfinite(table)
        self.nans = int(np.isnan(table).sum())
        self.infinities = int((~finite).sum()) - self.nans
        self.bad_rows = np.flatnonzero(~finite.all(axis=1))
        self.low = np.min(table, axis=0, where=finite, initial=np.inf)
        self.high = np.max(table, axis=0, where=finite, initial=-np.inf)


def repeated_rows(*columns: NDArray[Any]) -> int:
    """How many rows of several columns (n, ...), as float32, repeat an earlier one, by hashes of 64 bits."""
    with np.errstate(over="ignore"):
        tables = [column.reshape(len(column), -1).astype(np.float32) + np.float32(0) for column in columns]  # -0 is 0
    hashes = pd.util.hash_pandas_object(pd.DataFrame(np.concatenate(tables, axis=1)), index=False)
    return int(hashes.duplicated().sum())


def find_faults(found: Survey) -> tuple[list[str], list[str]]:
    """What says that a dataset is damaged, or another task's; and what is strange in it: a sentence each."""
    return list(_damage(found)), list(_oddities(found))


def _damage(found: Survey) -> Iterator[str]:
    known, task = whole_columns(found.columns), found.task
    yield from (f"{said}: another task's" for said in (signs_of_another_task(found.columns, task) if task else ()))
    for name, values in found.values.items():
        if rows := len(values.bad_rows):
            count = f"{values.nans:,} NaN(s) and {values.infinities:,} infinite value(s)"
            yield f"'{name}' has {count} in {rows:,} row(s), first in row {values.bad_rows[0]:,}"
    for name in (name for name in known if name not in NUMBERS):
        if odd := int(((known[name] != 0) & (known[name] != 1)).sum()):
            yield f"'{name}' is neither 0 nor 1 in {odd:,} row(s)"


def _oddities(found: Survey) -> Iterator[str]:
    columns, task, lengths = found.columns, found.task, found.lengths
    if both := int((found.terminals & found.timeouts).sum()):
        yield f"{both:,} row(s) are both terminal and timeout: D4RL's view drops them"
    if note := ActionRange(columns).note:
        yield f"{note}; {BOUNDS_ADVICE}"
    for name in ("observations", "actions", "rewards"):
        values = found.values[name]
        still = np.flatnonzero(values.low == values.high)
        if len(still) and len(columns) > 1:
            yield f"'{name}' never changes in dimension(s) {', '.join(map(str, still))}"
    if repeated := repeated_rows(columns.observations, columns.actions, columns.rewards):
        yield f"{repeated:,} row(s) repeat an earlier row's observation, action and reward"
    if found.cuts == "next observations" and len(lengths) == len(columns) > 1:
        yield "no next observation is the next row's: the rows are in no order, or these are in other units"
    if found.cuts == "unknown":
        yield "nothing says where episodes were cut ('timeouts', --task): transitions may lead into the next one"
    if found.unfinished:
        yield f"the last {found.unfinished:,} row(s) belong to an episode that does not end"
    if task and len(lengths):
        limit, most = f"{task.name}'s limit of {task.episode_limit:,} steps", task.episode_limit
        if long := int((lengths > most).sum()):
            yield f"{long:,} episode(s) are longer than {limit}, up to {lengths.max():,}"
        if most > 1 and (lengths == most).all() and not found.timeouts.any():
            yield f"every episode is terminal at {limit}, and none is cut: are these timeouts? Values end at a terminal"
    if columns.next_observations is not None:
        inside = ~(found.terminals | found.timeouts)[:-1]
        one, other = columns.observations[1:], columns.next_observations[:-1]
        same = ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
        if breaks := int((~same & inside).sum()):
            yield f"{breaks:,} row(s) inside of episodes have a next observation that is not the next row's"
