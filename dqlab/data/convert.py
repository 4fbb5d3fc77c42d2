"""Datasets fetched, or written in another format, and what that format could not hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dqlab.data.bounds import BOUNDS_ADVICE, ActionRange
from dqlab.data.download import Progress, cache_folder, no_progress
from dqlab.data.formats.base import Columns
from dqlab.data.formats.hdf5 import CONVERTED
from dqlab.data.locate import Dataset
from dqlab.data.sources import find_dataset
from dqlab.data.survey import Survey, survey_dataset
from dqlab.data.transitions import cuts_of
from dqlab.envs.tasks import Task
from dqlab.errors import DataError
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
    if target.place.exists():
        if not force:
            raise DataError(f"{target.place} exists. --force replaces it.")
        if target.place.samefile(source.place):
            raise DataError(f"{target.place} would be read and written at once. Choose another target.")
    task = source.task or target.task
    columns = source.read()
    before = survey_dataset(columns, task)
    target.format.write(target.path, _with_known_facts(columns, source, task))
    after = survey_dataset(target.read(), task)
    return [f"{target.place}: {after.counts}", *_conversion_losses(before, after)]


def _with_known_facts(columns: Columns, source: Dataset, task: Task | None) -> Columns:
    """The columns with what is known of them elsewhere: cuts, and where they are from."""
    said = {CONVERTED: f"{source.named}, SHA-256 {source.digest()}", **columns.metadata}
    timeouts = columns.timeouts
    if timeouts is None and task:
        timeouts = cuts_of(columns.terminals.astype(bool), None, task.episode_limit)
    return replace(columns, timeouts=timeouts, metadata=said)


def _conversion_losses(before: Survey, after: Survey) -> Iterator[str]:
    """What a dataset lost by being written in another format, a sentence each."""
    gone, terminals = before.transitions - after.transitions, int(after.terminals.sum())
    forgets = before.columns.next_observations is not None and after.columns.next_observations is None
    if gone:
        why = ": it does not say what followed rows at which episodes were cut, or the last row" if forgets else ""
        yield f"Lost: {gone:,} of {before.transitions:,} transition(s){why}."
    if forgets and terminals:
        yield f"Not kept: the observations after {terminals:,} terminal row(s); nothing is learnt from them."
    if note := ActionRange(after.columns).note:
        yield f"Note: {note}; for training, {BOUNDS_ADVICE}."


CACHE, DOWNLOAD = "d4rl_cache", "d4rl_download"
"""Where a task's data are asked for by default, unless the task names a source of its own."""


def fetch_dataset(
    task: Task, sources: Sequence[str] = (), force: bool = False, progress: Progress = no_progress
) -> str:
    """Fetch a task's dataset from the first source that has it, unless it is in D4RL's cache; what to tell of it.

    That is where it lies, its size, which addresses had nothing, and how to use what is not in D4RL's cache; of rows
    that a source makes itself, the source's name.

    Args:
        task: whose.
        sources: as in load_dataset.sources; by default D4RL's server, or that of the task's own benchmark.
        force: fetch it though it is there.
        progress: called with bytes done and in all.

    Raises:
        DqlabError: no source has it.
    """
    wanted = sources or (task.source or DOWNLOAD,)
    cached = () if force or task.benchmark else (CACHE,)
    found = find_dataset(task, (*cached, *wanted), progress)
    if (place := found.place) is None:
        return found.source
    known = found.source == CACHE or (found.source == task.benchmark and not found.address)
    there = "already there: " if known else ""
    failed = "".join(f"; not from {why}" for why in found.failed)
    in_cache = place.parent.resolve() == cache_folder().resolve()
    use = "" if in_cache else f"; not in D4RL's cache: train on it with load_dataset.sources=({found.source!r},)"
    return f"{there}{place} ({in_words(size_of(place))}){use}{failed}"
