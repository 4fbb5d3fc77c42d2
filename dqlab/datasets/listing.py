"""What there is: the tasks' datasets in D4RL's cache, Minari's on this machine, and those that ship with dqlab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from dqlab.console import Console
from dqlab.data.minari_store import facts, local_ids, store
from dqlab.data.sources import cache_path, homes
from dqlab.datasets.locating import with_data
from dqlab.files import size_of
from dqlab.machine import in_words


@dataclass(frozen=True)
class Listed:
    """One dataset.

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


def listing() -> dict[str, list[Listed]]:
    """All of them, by where they come from."""
    return {"d4rl": _tasks(), "embedded": _embedded(), "minari": _minari()}


def as_data() -> dict[str, Any]:
    """The same as plain values."""
    return {kind: [asdict(item) for item in items] for kind, items in listing().items()}


def show(console: Console) -> None:
    """Print them as tables."""
    found = listing()
    cached = [item for item in found["d4rl"] if item.size is not None]
    folder = Path(found["d4rl"][0].place).parent
    caption = f"cache: {folder}; {len(cached)} of {len(found['d4rl'])} are there"
    console.print(_table("Tasks with a dataset of D4RL's", "task", found["d4rl"], caption))
    console.print(_table("Small sets that ship with dqlab (not D4RL)", "path", found["embedded"], ""))
    caption = f"store: {store()}"
    if found["minari"]:
        console.print(_table("Minari's datasets on this machine", "dataset", found["minari"], caption))
    else:
        console.print(Text(f"Minari's datasets on this machine: none ({caption})."), soft_wrap=True)


def _tasks() -> list[Listed]:
    found = []
    for task in with_data():
        path = cache_path(task)
        there = path.exists()
        part = path.with_name(f"{path.name}.part")
        note = "cached" if there else "download broke off; continue it" if part.exists() else "not here"
        size = path.stat().st_size if there else None
        found.append(Listed(task.name, str(path), size, note, tuple(homes(task))))
    return found


def _embedded() -> list[Listed]:
    folder = Path(str(files("dqlab.data") / "embedded"))
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".hdf5")
    return [Listed(path.stem, str(path), path.stat().st_size) for path in paths]


def _minari() -> list[Listed]:
    found = []
    for name in local_ids():
        known = facts(store() / name)
        note = f"{_count(known, 'total_steps')} steps, {_count(known, 'total_episodes')} episodes"
        found.append(Listed(f"minari:{name}", str(store() / name), size_of(store() / name), note))
    return found


def _count(known: Mapping[str, Any], name: str) -> str:
    value = known.get(name)
    return f"{value:,}" if isinstance(value, int) else "?"


def _table(title: str, heading: str, items: list[Listed], caption: str) -> Table:
    table = Table(title=title, caption=Text(caption) if caption else None, caption_justify="left", title_justify="left")
    table.add_column(heading, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    notes = any(item.note for item in items)
    if notes:
        table.add_column("what is there", overflow="fold")
    if had := any(item.addresses for item in items):
        table.add_column("can be had from", overflow="fold")
    for item in items:
        name = item.place if heading == "path" else item.name
        cells = [Text(name), Text("-" if item.size is None else in_words(item.size))]
        servers = Text(", ".join(str(urlsplit(address).hostname) for address in item.addresses))
        table.add_row(*cells, *([Text(item.note)] if notes else []), *([servers] if had else []))
    return table
