"""`dqlab data verify`: what can be wrong with a dataset, one line a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dqlab.data.bounds import BOUNDS_ADVICE
from dqlab.data.download import digest_fault
from dqlab.data.formats.reading import UnreadError
from dqlab.data.locate import Dataset, locate_dataset, reading_status
from dqlab.data.survey import UNKNOWN, Survey, survey_dataset
from dqlab.envs.tasks import Task
from dqlab.errors import DataError, message_of, printable


@dataclass(frozen=True)
class DatasetFinding:
    """Something to say of a dataset.

    Attributes:
        text: what.
        damage: whether the set is damaged, or another task's.
    """

    text: str
    damage: bool = False


@dataclass(frozen=True)
class Verification:
    """A dataset that was read from end to end.

    Attributes:
        findings: what is wrong or strange.
        survey: what is in it; None where it cannot be read.
        digest: SHA-256; empty where it cannot be read.
    """

    findings: tuple[DatasetFinding, ...]
    survey: Survey | None = None
    digest: str = ""

    @property
    def damaged(self) -> bool:
        return any(finding.damage for finding in self.findings)


def verify_dataset(dataset: Dataset) -> Verification:
    """Read everything and check it; nothing is raised for what is in the dataset.

    Raises:
        UnreadError: it cannot be read now, or here: it is in use, say.
    """
    try:
        digest = dataset.digest()
        found = survey_dataset(dataset.read(), dataset.task)
        changed = [DatasetFinding(fault, damage=True) for fault in (digest_fault(dataset.place, digest),) if fault]
        findings = (*changed, *find_faults(found, dataset.task))
    except UnreadError:
        raise
    except DataError as error:
        return Verification((DatasetFinding(printable(message_of(error)), damage=True),))
    return Verification(findings, found, digest)


def report_findings(name: str, task: str | None = None, out: Callable[[str], None] = print) -> bool:
    """Verify the dataset of that name and print a line for each finding; returns whether it is damaged.

    Raises:
        DqlabError: there is no such dataset.
    """
    dataset = locate_dataset(name, task)
    with reading_status(name):
        seen = verify_dataset(dataset)
    for finding in seen.findings:
        out(f"{name}: {'damage' if finding.damage else 'note'}: {finding.text}")
    if seen.survey and not seen.damaged:
        out(f"{name}: sound: {seen.survey.counts}, SHA-256 {seen.digest}")
    return seen.damaged


def find_faults(found: Survey, task: Task | None) -> list[DatasetFinding]:
    """What is wrong or strange, by what was counted; damage first."""
    damage = [DatasetFinding(text, damage=True) for text in _damage(found, task)]
    return damage + [DatasetFinding(text) for look in (_oddities, _odd_episodes) for text in look(found, task)]


def _damage(found: Survey, task: Task | None) -> Iterator[str]:
    for name, width in (("observations", task.state_dim), ("actions", task.action_dim)) if task else ():
        if task and found.shapes[name][1] != width:
            yield f"'{name}' is {found.shapes[name][1]} wide, {task.name}'s is {width}: another task's"
    for name, values in found.values.items():
        if rows := len(values.bad_rows):
            count = f"{values.nans:,} NaN(s) and {values.infinities:,} infinite value(s)"
            yield f"'{name}' has {count} in {rows:,} row(s), first in row {values.bad_rows[0]:,}"
    for name, odd in found.odd_flags.items():
        if odd:
            yield f"'{name}' is neither 0 nor 1 in {odd:,} row(s)"


def _oddities(found: Survey, task: Task | None) -> Iterator[str]:
    """Of columns."""
    if found.both:
        yield f"{found.both:,} row(s) are both terminal and timeout: D4RL's view drops them"
    if found.actions_note:
        yield f"{found.actions_note}; {BOUNDS_ADVICE}"
    for name in ("observations", "actions"):
        values = found.values[name]
        still = np.flatnonzero(values.low == values.high)
        if len(still) and found.rows > 1:
            yield f"'{name}' never changes in dimension(s) {', '.join(map(str, still))}"
    if len(found.rewards) == 1:
        yield f"all rewards are {found.rewards[0]:g}"
    if found.rewards == (0.0, 1.0) and found.unrewarded_terminals:
        yield (
            f"rewards are 0 or 1, and {found.unrewarded_terminals:,} of {found.terminals:,} terminal row(s) have "
            "reward 0"
        )
    if found.duplicates:
        yield f"{found.duplicates:,} row(s) repeat an earlier row's observation, action and reward"


def _odd_episodes(found: Survey, task: Task | None) -> Iterator[str]:
    if not len(found.lengths):
        yield f"no episode ends within the {found.rows:,} rows"
    elif found.unfinished:
        yield f"the last {found.unfinished:,} row(s) belong to an episode that does not end"
    if task and len(found.lengths) and found.lengths.max() > task.episode_limit:
        long = int((found.lengths > task.episode_limit).sum())
        limit = f"{task.name}'s limit of {task.episode_limit:,} steps"
        yield f"{long:,} episode(s) are longer than {limit}, up to {found.lengths.max():,}"
    if found.cuts == UNKNOWN:
        yield "no timeouts are recorded, and the task is not known (--task): episodes end at terminals only"
    if found.breaks:
        yield f"{found.breaks:,} row(s) inside of episodes have a next observation that is not the next row's"
