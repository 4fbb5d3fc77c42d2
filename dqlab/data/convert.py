"""Datasets fetched, or written in another format, and what that format could not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dqlab.data.bounds import BOUNDS_ADVICE
from dqlab.data.download import Progress, no_progress
from dqlab.data.formats.base import Columns
from dqlab.data.formats.hdf5 import CONVERTED
from dqlab.data.locate import Dataset, task_of
from dqlab.data.rows import cuts_of
from dqlab.data.sources import LocatedDataset, cache_folder, find_dataset
from dqlab.data.survey import Survey, survey_dataset
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, DqlabError, message_of
from dqlab.files import size_of
from dqlab.machine import in_words


def convert_dataset(source: Dataset, target: Dataset, force: bool = False) -> list[str]:
    """Write `source` as `target`; returns what to tell: what was written, and what was lost.

    Args:
        source, target: the two; the task of either is that of both.
        force: replace a target that is there.

    Raises:
        DataError: the target is there, or is the source; something cannot be read or written.
        ConfigError: the target's format is only read.
    """
    check_target(target, force)
    if target.place.exists() and target.place.samefile(source.place):
        raise DataError(f"{target.place} would be read and written at once. Choose another target.")
    task = source.task or target.task
    columns = source.read()
    before = survey_dataset(columns, task)
    target.format.write(target.path, _with_known_facts(columns, source, task))
    after = survey_dataset(target.read(), task)
    return [f"{target.place}: {after.counts}", *conversion_losses(before, after)]


def check_target(target: Dataset, force: bool) -> None:
    """See that nothing is overwritten without `force`.

    Raises:
        DataError: the target is there.
    """
    if target.place.exists() and not force:
        raise DataError(f"{target.place} exists. --force replaces it.")


def _with_known_facts(columns: Columns, source: Dataset, task: Task | None) -> Columns:
    """The columns with what is known of them elsewhere: cuts, and where they are from."""
    said = {CONVERTED: f"{source.named}, SHA-256 {source.digest()}", **columns.metadata}
    timeouts = columns.timeouts
    if timeouts is None and task:
        timeouts = cuts_of(columns.terminals.astype(bool), None, task.episode_limit)
    return replace(columns, timeouts=timeouts, metadata=said)


def conversion_losses(before: Survey, after: Survey) -> Iterator[str]:
    """What a dataset lost by being written in another format, a sentence each."""
    gone, forgets = before.transitions - after.transitions, before.follows and not after.follows
    if gone:
        why = ": it does not say what followed rows at which episodes were cut, or the last row" if forgets else ""
        yield f"Lost: {gone:,} of {before.transitions:,} transition(s){why}."
    if forgets and after.terminals:
        yield f"Not kept: the observations after {after.terminals:,} terminal row(s); nothing is learnt from them."
    if after.actions_note:
        yield f"Note: {after.actions_note}; for training, {BOUNDS_ADVICE}."


CACHE_SOURCES = ("d4rl_cache",)
DOWNLOAD_SOURCES = ("d4rl_download",)
"""Where a task's data are asked for by default, unless the task names a source of its own."""


@dataclass(frozen=True)
class FetchResult:
    """How one task's download went, in one line."""

    task: str
    text: str
    failed: bool = False


def fetch_datasets(
    names: Sequence[str],
    sources: Sequence[str] = (),
    force: bool = False,
    progress: Progress = no_progress,
) -> Iterator[FetchResult]:
    """Fetch each task's dataset from the first source that has it, unless it is in D4RL's cache; tell of each.

    Args:
        names: of tasks; all are looked up before the first is fetched.
        sources: as in load_dataset.sources; by default D4RL's server, or that of the task's own benchmark.
        force: fetch it though it is there.
        progress: called with bytes done and in all.

    Raises:
        ConfigError: there is no such task.
    """
    for task in [task_of(name) for name in names]:
        wanted = sources or ((task.source,) if task.source else DOWNLOAD_SOURCES)
        try:
            cached = () if force or task.benchmark else CACHE_SOURCES
            found = find_dataset(task, (*cached, *wanted), progress)
        except DqlabError as error:
            yield FetchResult(task.name, message_of(error), failed=True)
        else:
            yield FetchResult(task.name, _fetched_text(found, task))


def _fetched_text(found: LocatedDataset, task: Task) -> str:
    """Where it is, its size, which addresses had nothing, and how to use what is not in D4RL's cache.

    Of rows that a source makes itself, the source's name.
    """
    if (place := found.place) is None:
        return found.source
    known = (found.source,) == CACHE_SOURCES or (found.source == task.benchmark and not found.address)
    there = "already there: " if known else ""
    failed = "".join(f"; not from {why}" for why in found.failed)
    cached = place.parent.resolve() == cache_folder().resolve()
    use = "" if cached else f"; not in D4RL's cache: train on it with load_dataset.sources=({found.source!r},)"
    return f"{there}{place} ({in_words(size_of(place))}){use}{failed}"
