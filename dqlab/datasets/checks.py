"""What can be wrong with a dataset, told one line a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dqlab.data.bounds import WAYS
from dqlab.data.formats.checking import UnreadError
from dqlab.data.recorded import differs
from dqlab.datasets.locating import Dataset, find
from dqlab.datasets.survey import UNKNOWN, Survey, Tell, survey
from dqlab.datasets.watching import watched
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, message_of
from dqlab.printing import printable


@dataclass(frozen=True)
class Finding:
    """Something to say of a dataset.

    Attributes:
        text: what.
        damage: whether the set is damaged, or another task's.
    """

    text: str
    damage: bool = False


@dataclass(frozen=True)
class Verified:
    """A dataset that was read from end to end.

    Attributes:
        findings: what is wrong or strange.
        survey: what is in it; None where it cannot be read.
        digest: SHA-256; empty where it cannot be read.
    """

    findings: tuple[Finding, ...]
    survey: Survey | None = None
    digest: str = ""

    @property
    def damaged(self) -> bool:
        """Whether any finding is damage."""
        return any(finding.damage for finding in self.findings)


def verify(dataset: Dataset, tell: Tell = lambda rows: None) -> Verified:
    """Read everything and check it; nothing is raised for what is in the dataset.

    Raises:
        UnreadError: it cannot be read now, or here: it is in use, say.
    """
    try:
        digest = dataset.digest()
        with dataset.open() as columns:
            found = survey(columns, dataset.task, tell)
            changed = [Finding(fault, damage=True) for fault in (differs(dataset.place, digest),) if fault]
            findings = (*changed, *check(found, dataset.task))
    except UnreadError:
        raise
    except DataError as error:
        return Verified((Finding(printable(message_of(error)), damage=True),))
    return Verified(findings, found, digest)


def report(name: str, task: str | None = None, out: Callable[[str], None] = print) -> bool:
    """Verify the dataset of that name and print a line for each finding; returns whether it is damaged.

    Raises:
        DqlabError: there is no such dataset.
    """
    dataset = find(name, task)
    with watched(name) as tell:
        seen = verify(dataset, tell)
    for finding in seen.findings:
        out(f"{name}: {'damage' if finding.damage else 'note'}: {finding.text}")
    if seen.survey and not seen.damaged:
        counts = f"{seen.survey.rows:,} rows, {len(seen.survey.lengths):,} episodes"
        out(f"{name}: sound: {counts}, SHA-256 {seen.digest}")
    return seen.damaged


def check(found: Survey, task: Task | None) -> Iterator[Finding]:
    """All findings; damage first."""
    findings = [finding for look in CHECKS for finding in look(found, task)]
    yield from sorted(findings, key=lambda finding: not finding.damage)


def _widths(found: Survey, task: Task | None) -> Iterator[Finding]:
    wanted = {"observations": task.state_dim, "actions": task.action_dim} if task else {}
    for name, width in wanted.items():
        if found.shapes[name][1] != width:
            assert task is not None
            yield Finding(f"'{name}' is {found.shapes[name][1]} wide, {task.name}'s is {width}: another task's", True)


def _finiteness(found: Survey, task: Task | None) -> Iterator[Finding]:
    for name, values in found.values.items():
        if values.bad_rows:
            count = f"{values.nans:,} NaN(s) and {values.infinities:,} infinite value(s)"
            yield Finding(
                f"'{name}' has {count} in {values.bad_rows:,} row(s), first in row {values.first_bad:,}", True
            )


def _flags(found: Survey, task: Task | None) -> Iterator[Finding]:
    for name, rows in found.odd_flags.items():
        if rows:
            yield Finding(f"'{name}' is neither 0 nor 1 in {rows:,} row(s)", True)
    if found.both:
        yield Finding(f"{found.both:,} row(s) are both terminal and timeout: D4RL's view drops them")


def _ranges(found: Survey, task: Task | None) -> Iterator[Finding]:
    if found.outside:
        yield Finding(f"{found.outside}; {WAYS}")
    for name in ("observations", "actions"):
        values = found.values[name]
        still = np.flatnonzero(values.low == values.high)
        if len(still) and found.rows > 1:
            yield Finding(f"'{name}' never changes in dimension(s) {', '.join(map(str, still))}")


def _episodes(found: Survey, task: Task | None) -> Iterator[Finding]:
    if not len(found.lengths):
        yield Finding(f"no episode ends within the {found.rows:,} rows")
    elif found.unfinished:
        yield Finding(f"the last {found.unfinished:,} row(s) belong to an episode that does not end")
    if task and len(found.lengths) and found.lengths.max() > task.episode_limit:
        long = int((found.lengths > task.episode_limit).sum())
        limit = f"{task.name}'s limit of {task.episode_limit:,} steps"
        yield Finding(f"{long:,} episode(s) are longer than {limit}, up to {found.lengths.max():,}")
    if found.cuts == UNKNOWN:
        yield Finding("no timeouts are recorded, and the task is not known (--task): episodes end at terminals only")
    if found.breaks:
        yield Finding(f"{found.breaks:,} row(s) inside of episodes have a next observation that is not the next row's")


def _rewards(found: Survey, task: Task | None) -> Iterator[Finding]:
    sparse = found.sparse
    if len(sparse.different) == 1:
        yield Finding(f"all rewards are {next(iter(sparse.different)):g}")
    if sparse.binary and found.terminals and sparse.rewarded_terminals < found.terminals:
        without = found.terminals - sparse.rewarded_terminals
        yield Finding(f"rewards are 0 or 1, and {without:,} of {found.terminals:,} terminal row(s) have reward 0")


def _duplicates(found: Survey, task: Task | None) -> Iterator[Finding]:
    if found.duplicates:
        yield Finding(f"{found.duplicates:,} row(s) repeat an earlier row's observation, action and reward")


CHECKS: tuple[Callable[[Survey, Task | None], Iterator[Finding]], ...] = (
    _widths,
    _finiteness,
    _flags,
    _ranges,
    _episodes,
    _rewards,
    _duplicates,
)
