"""A dataset in another format, whole or not at all, and what that format could not hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dqlab.data.bounds import WAYS, why_outside
from dqlab.data.download import Progress, no_progress
from dqlab.data.formats.base import Columns
from dqlab.data.formats.steps import steps
from dqlab.data.locate import Dataset, locate_dataset, name_it, task_of
from dqlab.data.recorded import forget_download
from dqlab.data.sources import COLLECTED, CONVERTED, PROVENANCE, SHARE, LocatedDataset, cache_folder, find_dataset
from dqlab.data.survey import ActionTally, ReportRows, with_cuts
from dqlab.data.verify import verify_dataset
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import DataError, DqlabError, message_of, printable_names
from dqlab.files import atomic_path, size_of
from dqlab.machine import in_words


@dataclass(frozen=True)
class Content:
    """What counts of a dataset.

    Attributes:
        rows, transitions, episodes, terminals: how many.
        knows_next: whether it is recorded what followed each row.
        notes: names of the metadata.
        outside: what is said of actions outside of [-1, 1]; empty where there are none.
    """

    rows: int
    transitions: int
    episodes: int
    terminals: int
    knows_next: bool
    notes: frozenset[str]
    outside: str = ""


def content_of(columns: Columns, task: Task | None) -> Content:
    """Count, a block at a time."""
    transitions = episodes = terminals = 0
    actions = ActionTally(columns.actions.shape[1])
    for part in steps(with_cuts(columns, task)):
        actions.add(part.actions)
        transitions += len(part)
        episodes += int((part.terminals | part.timeouts).sum())
        terminals += int(part.terminals.sum())
    knows_next = columns.next_observations is not None
    notes, said = frozenset(columns.metadata), why_outside(actions.extent(columns.metadata))
    return Content(len(columns), transitions, episodes, terminals, knows_next, notes, said)


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
    with source.open() as columns:
        before = content_of(columns, task)
        target.format.write(target.path, _complete(columns, source, task))
    with target.open() as columns:
        after = content_of(columns, task)
    return [
        f"{target.place}: {after.rows:,} rows, {after.transitions:,} transitions",
        *conversion_losses(before, after),
    ]


def check_target(target: Dataset, force: bool) -> None:
    """See that nothing is overwritten that should not be.

    Raises:
        DataError: it is there.
    """
    if target.place.exists() and not force:
        raise DataError(f"{target.place} exists. --force replaces it.")


def _complete(columns: Columns, source: Dataset, task: Task | None) -> Columns:
    """The columns with what is known of them elsewhere: cuts, where they are from, the task's environment."""
    said = {CONVERTED: f"{source.named}, SHA-256 {source.digest()}", **columns.metadata}
    if task and "env_spec" not in said and (spec := _specification(task)):
        said["env_spec"] = spec
    return replace(with_cuts(columns, task), metadata=said)


def _specification(task: Task) -> str:
    """The task's environment as Gymnasium writes it; empty where Gymnasium does not know it."""
    import gymnasium

    try:
        return str(gymnasium.spec(task.env_id).to_json())
    except gymnasium.error.Error:
        return ""


def conversion_losses(before: Content, after: Content) -> Iterator[str]:
    """What the second does not hold of the first, a sentence each."""
    gone, forgets = before.transitions - after.transitions, before.knows_next and not after.knows_next
    if gone:
        why = ": it does not say what followed rows at which episodes were cut, or the last row" if forgets else ""
        yield f"Lost: {gone:,} of {before.transitions:,} transition(s){why}."
    if forgets and after.terminals:
        yield f"Not kept: the observations after {after.terminals:,} terminal row(s); nothing is learnt from them."
    rows = before.rows - after.rows
    if rows > 0 and not before.knows_next:
        yield (
            f"Left out: {rows:,} row(s) that are no transition, for it is not known what followed them "
            "(ends of episodes that were cut, and the last row); their observations are kept, their rewards are not."
        )
    if before.episodes != after.episodes:
        yield f"Episodes: {before.episodes:,} before, {after.episodes:,} after."
    if notes := before.notes - after.notes:
        yield f"Not kept: metadata ({printable_names(notes)})."
    if after.outside:
        yield f"Note: {after.outside}; for training, {WAYS}."


HERE = ("d4rl_cache",)
FROM = ("d4rl_download",)


@dataclass(frozen=True)
class Fetched:
    """How one task's download went, in one line."""

    task: str
    text: str
    failed: bool = False


def fetch_datasets(
    names: Sequence[str], sources: Sequence[str] = FROM, force: bool = False, progress: Progress = no_progress
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


def _what(source: str, found: LocatedDataset) -> str:
    """Where it is, its size, which addresses had nothing, and how to use what is not in D4RL's cache.

    Of rows that a source makes itself, the source's name.
    """
    if (place := found.place) is None:
        return source
    failed = "".join(f"; not from {why}" for why in found.failed)
    cached = place.parent.resolve() == cache_folder().resolve()
    use = "" if cached else f"; not in D4RL's cache: train on it with load_dataset.sources=({source!r},)"
    return f"{place} ({in_words(size_of(place))}){use}{failed}"


CAVEAT = "It was converted: scores obtained with it are marked as not D4RL's. Only D4RL's own file counts as such."


def import_dataset(name: str, task_name: str, force: bool = False, tell: ReportRows = lambda rows: None) -> list[str]:
    """Verify a dataset and put it into D4RL's cache, byte by byte, or converted from another format.

    Args:
        name: a path, or `FORMAT:NAME`.
        task_name: whose data it is.
        force: replace what is there.
        tell: called with the rows that are done.

    Raises:
        DqlabError: it does not fit the task, is damaged or not D4RL's, or the cache has that file.
    """
    task = task_of(task_name)
    source, target = locate_dataset(name, task_name), name_it(task_name)
    if target.place.exists() and target.place.samefile(source.place):
        return [f"{target.place} is that file already."]
    if other := _named(source.place.name) - {task.name}:
        raise DataError(f"{name} is called as D4RL's {min(other)}, not {task.name}. If it is, give it another name.")
    check_target(target, force)
    seen = verify_dataset(source, tell)
    if seen.damaged or seen.survey is None:
        wrong = "; ".join(finding.text for finding in seen.findings if finding.damage)
        raise DataError(f"{name} is not put into D4RL's cache as {task.name}: {wrong}.")
    if seen.survey.outside:
        raise DataError(
            f"{name} is not put into D4RL's cache as {task.name}: {seen.survey.outside}, and D4RL's in [-1, 1]. "
            f"Use it as 'file:{name}': {WAYS}."
        )
    if seen.survey.metadata.get(PROVENANCE, "").startswith(COLLECTED):
        raise DataError(f"{name} was collected by dqlab: it is not D4RL's {task.name}. Use it as 'file:{name}'.")
    notes = [f"Note: {finding.text}." for finding in seen.findings]
    if type(source.format) is type(target.format):
        _copy(source, target)
        forget_download(target.place)
        said = [f"{target.place}: {seen.survey.rows:,} rows, SHA-256 {seen.digest}", *notes]
        if seen.survey.rows < SHARE * task.rows:
            said.append(f"D4RL's has about {task.rows:,} rows: scores obtained with this are marked as not D4RL's.")
        return [*said, CAVEAT] if CONVERTED in seen.survey.metadata else said
    lines = convert_dataset(source, target, force)
    forget_download(target.place)
    return [*lines, *notes, CAVEAT]


def _named(file: str) -> set[str]:
    """Tasks whose file D4RL calls so."""
    return {entry.name for entry in tasks if entry.item.file and Path(entry.item.file).name == file}


def _copy(source: Dataset, target: Dataset) -> None:
    try:
        with atomic_path(target.place) as temporary:
            shutil.copyfile(source.place, temporary)
    except OSError as error:
        raise DataError(
            f"Cannot write {target.place}: {error.strerror or error}. Free some space or set D4RL_DATASET_DIR."
        ) from error
