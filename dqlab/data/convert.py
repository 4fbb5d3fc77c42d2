"""Datasets fetched, imported into D4RL's cache, or written in another format, and what that format could not hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dqlab.data.bounds import BOUNDS_ADVICE
from dqlab.data.download import CACHE_ADVICE, Progress, forget_digest, no_progress
from dqlab.data.formats.base import Columns
from dqlab.data.formats.hdf5 import COLLECTED, CONVERTED, PROVENANCE, SHARE
from dqlab.data.formats.reading import write_errors
from dqlab.data.locate import Dataset, locate_dataset, resolve_dataset, task_of
from dqlab.data.rows import cuts_of
from dqlab.data.sources import LocatedDataset, cache_folder, find_dataset
from dqlab.data.survey import Survey, survey_dataset
from dqlab.data.verify import verify_dataset
from dqlab.envs import tasks
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, DqlabError, message_of, printable_names
from dqlab.files import atomic_path, size_of
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
    rows = before.rows - after.rows
    if rows > 0 and not before.follows:
        yield (
            f"Left out: {rows:,} row(s) that are no transition, for it is not known what followed them "
            "(ends of episodes that were cut, and the last row); their observations are kept, their rewards are not."
        )
    episodes = [len(found.lengths) + bool(found.unfinished) for found in (before, after)]
    if episodes[0] != episodes[1]:
        yield f"Episodes: {episodes[0]:,} before, {episodes[1]:,} after."
    if notes := set(before.metadata) - set(after.metadata):
        yield f"Not kept: metadata ({printable_names(notes)})."
    if after.actions_note:
        yield f"Note: {after.actions_note}; for training, {BOUNDS_ADVICE}."


CACHE_SOURCES = ("d4rl_cache",)
DOWNLOAD_SOURCES = ("d4rl_download",)


@dataclass(frozen=True)
class FetchResult:
    """How one task's download went, in one line."""

    task: str
    text: str
    failed: bool = False


def fetch_datasets(
    names: Sequence[str],
    sources: Sequence[str] = DOWNLOAD_SOURCES,
    force: bool = False,
    progress: Progress = no_progress,
) -> Iterator[FetchResult]:
    """Fetch each task's dataset from the first source that has it, unless it is in D4RL's cache; tell of each.

    Args:
        names: of tasks; all are looked up before the first is fetched.
        sources: as in load_dataset.sources.
        force: fetch it though it is there.
        progress: called with bytes done and in all.

    Raises:
        ConfigError: there is no such task.
    """
    for task in [task_of(name) for name in names]:
        try:
            found = find_dataset(task, (*(() if force else CACHE_SOURCES), *sources), progress)
        except DqlabError as error:
            yield FetchResult(task.name, message_of(error), failed=True)
        else:
            yield FetchResult(task.name, _fetched_text(found))


def _fetched_text(found: LocatedDataset) -> str:
    """Where it is, its size, which addresses had nothing, and how to use what is not in D4RL's cache.

    Of rows that a source makes itself, the source's name.
    """
    if (place := found.place) is None:
        return found.source
    there = "already there: " if (found.source,) == CACHE_SOURCES else ""
    failed = "".join(f"; not from {why}" for why in found.failed)
    cached = place.parent.resolve() == cache_folder().resolve()
    use = "" if cached else f"; not in D4RL's cache: train on it with load_dataset.sources=({found.source!r},)"
    return f"{there}{place} ({in_words(size_of(place))}){use}{failed}"


CONVERTED_CAVEAT = (
    "It was converted: scores obtained with it are marked as not D4RL's. Only D4RL's own file counts as such."
)


def import_dataset(name: str, task_name: str, force: bool = False) -> list[str]:
    """Verify a dataset and put it into D4RL's cache, byte by byte, or converted from another format.

    Args:
        name: a path, or `FORMAT:NAME`.
        task_name: whose data it is.
        force: replace what is there.

    Raises:
        DqlabError: it does not fit the task, is damaged or not D4RL's, or the cache has that file.
    """
    task = task_of(task_name)
    source, target = locate_dataset(name, task_name), resolve_dataset(task_name)
    if target.place.exists() and target.place.samefile(source.place):
        return [f"{target.place} is that file already."]
    if other := _tasks_with_file(source.place.name) - {task.name}:
        raise DataError(f"{name} is called as D4RL's {min(other)}, not {task.name}. If it is, give it another name.")
    check_target(target, force)
    seen = verify_dataset(source)
    if seen.damaged or seen.survey is None:
        wrong = "; ".join(finding.text for finding in seen.findings if finding.damage)
        raise DataError(f"{name} is not put into D4RL's cache as {task.name}: {wrong}.")
    if seen.survey.actions_note:
        raise DataError(
            f"{name} is not put into D4RL's cache as {task.name}: {seen.survey.actions_note}, and D4RL's in [-1, 1]. "
            f"Use it as 'file:{name}': {BOUNDS_ADVICE}."
        )
    if seen.survey.metadata.get(PROVENANCE, "").startswith(COLLECTED):
        raise DataError(f"{name} was collected by dqlab: it is not D4RL's {task.name}. Use it as 'file:{name}'.")
    notes = [f"Note: {finding.text}." for finding in seen.findings]
    if type(source.format) is type(target.format):
        _copy(source, target)
        forget_digest(target.place)
        said = [f"{target.place}: {seen.survey.rows:,} rows, SHA-256 {seen.digest}", *notes]
        if seen.survey.rows < SHARE * task.rows:
            said.append(f"D4RL's has about {task.rows:,} rows: scores obtained with this are marked as not D4RL's.")
        return [*said, CONVERTED_CAVEAT] if CONVERTED in seen.survey.metadata else said
    lines = convert_dataset(source, target, force)
    forget_digest(target.place)
    return [*lines, *notes, CONVERTED_CAVEAT]


def _tasks_with_file(file: str) -> set[str]:
    """Tasks whose file D4RL calls so."""
    return {entry.name for entry in tasks if entry.item.file and Path(entry.item.file).name == file}


def _copy(source: Dataset, target: Dataset) -> None:
    with write_errors(target.place, CACHE_ADVICE), atomic_path(target.place) as temporary:
        shutil.copyfile(source.place, temporary)
