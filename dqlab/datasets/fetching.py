"""Fetching several tasks' datasets, each on its own: a failure does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dqlab.data.cache import cache_folder
from dqlab.data.download import Progress, silent
from dqlab.data.found import Found
from dqlab.data.sources import find_dataset
from dqlab.datasets.locating import task_of
from dqlab.errors import DqlabError, message_of
from dqlab.files import size_of
from dqlab.machine import in_words

HERE = ("d4rl_cache",)
FROM = ("d4rl_download",)


@dataclass(frozen=True)
class Fetched:
    """How one task's download went, in one line."""

    task: str
    text: str
    failed: bool = False


def fetch(
    names: Sequence[str], sources: Sequence[str] = FROM, force: bool = False, progress: Progress = silent
) -> Iterator[Fetched]:
    """Fetch each task's dataset from the first source that has it, unless it is in D4RL's cache; tell of each.

    Args:
        names: of tasks; all are looked up before the first is fetched.
        sources: as in load_dataset.sources.
        force: fetch it though it is there.
        progress: called with bytes done and in all.

    Raises:
        ConfigError: there is no such task.
    """
    for name in names:
        task_of(name)
    asked = (*(() if force else HERE), *sources)
    for name in names:
        try:
            source, found = find_dataset(task_of(name), asked, progress)
        except DqlabError as error:
            yield Fetched(name, message_of(error), failed=True)
            continue
        yield Fetched(name, ("already there: " if (source,) == HERE else "") + _what(source, found))


def _what(source: str, found: Found) -> str:
    """Where it is, its size, which addresses had nothing, and how to use what is not in D4RL's cache.

    Of rows that a source makes itself, the source's name.
    """
    if (place := found.place) is None:
        return source
    failed = "".join(f"; not from {why}" for why in found.failed)
    cached = place.parent.resolve() == cache_folder().resolve()
    use = "" if cached else f"; not in D4RL's cache: train on it with load_dataset.sources=({source!r},)"
    return f"{place} ({in_words(size_of(place))}){use}{failed}"
