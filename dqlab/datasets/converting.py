"""A dataset in another format, whole or not at all, and what that format could not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dqlab.data.bounds import WAYS, outside
from dqlab.data.formats.base import Columns
from dqlab.data.formats.steps import steps
from dqlab.data.own import CONVERTED
from dqlab.datasets.locating import Dataset
from dqlab.datasets.survey import with_cuts
from dqlab.datasets.tallies import Actions
from dqlab.envs.tasks import Task
from dqlab.errors import DataError
from dqlab.printing import names


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
    actions = Actions(columns.actions.shape[1])
    for part in steps(with_cuts(columns, task)):
        actions.add(part.actions)
        transitions += len(part)
        episodes += int((part.terminals | part.timeouts).sum())
        terminals += int(part.terminals.sum())
    knows_next = columns.next_observations is not None
    notes, said = frozenset(columns.metadata), outside(actions.extent(columns.metadata))
    return Content(len(columns), transitions, episodes, terminals, knows_next, notes, said)


def convert(source: Dataset, target: Dataset, force: bool = False) -> list[str]:
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
    return [f"{target.place}: {after.rows:,} rows, {after.transitions:,} transitions", *losses(before, after)]


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


def losses(before: Content, after: Content) -> Iterator[str]:
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
        yield f"Not kept: metadata ({names(notes)})."
    if after.outside:
        yield f"Note: {after.outside}; for training, {WAYS}."
