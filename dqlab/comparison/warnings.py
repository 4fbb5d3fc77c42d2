"""What a reader must know before believing a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from dqlab.comparison.finished_runs import FinishedRun, Found
from dqlab.comparison.groups import Group, Row

FEW = 5


def warnings(found: Found, groups: Sequence[Group], rows: Sequence[Row]) -> tuple[str, ...]:
    """One sentence each."""
    about_groups = (_twice, _tasks, _physics, _versions)
    sentences = chain(*(about(groups) for about in about_groups), _data(rows), _seeds(rows))
    return (*_left_out(found), *sentences)


def _left_out(found: Found) -> Iterator[str]:
    for number, how in ((found.failed, "failed"), (found.unfinished, "not finished")):
        if number:
            yield f"{number} {'run has' if number == 1 else 'runs have'} {how}: left out."
    if found.gone:
        number, first = len(found.gone), found.gone[0]
        whose = "A reused cell is" if number == 1 else f"{number} reused cells are"
        yield f"{whose} gone ({first}{', ...' if number > 1 else ''}): left out. Run the grid again to train them here."
    yield from (f"Left out: {text}" for text in found.damaged)


def _twice(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        counts = Counter((run.task, run.digest, run.seed) for run in group.runs)
        for (task, _, seed), number in counts.items():
            if number > 1:
                yield f"{group.letter} on {task} has {number} runs with seed {seed}: only the first one counts."


def _tasks(groups: Sequence[Group]) -> Iterator[str]:
    by_task = _letters_by(groups, lambda run: run.task)
    if any(len(letters) < len(groups) for letters in by_task.values()):
        yield f"Not every configuration was run on every task: {_listed(by_task)}."


def _data(rows: Sequence[Row]) -> Iterator[str]:
    for task in dict.fromkeys(row.task for row in rows):
        letters: dict[str, list[str]] = {}
        for row in rows:
            if row.task == task:
                letters.setdefault(row.digest[:12], []).append(row.group.letter)
        if len(letters) > 1:
            yield f"{task}: the data differ (by digest {_listed(letters)}). Scores on different data do not compare."


def _physics(groups: Sequence[Group]) -> Iterator[str]:
    letters = _letters_by(groups, lambda run: run.physics)
    if len(letters) > 1:
        yield f"The physics differ ({_listed(letters)}). Scores under different physics do not compare."


def _versions(groups: Sequence[Group]) -> Iterator[str]:
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.made_with)
    for name in names:
        letters = _letters_by(groups, partial(_made_with, name))
        if len(letters) > 1:
            yield f"Made with different {name}: {_listed(letters)}."


def _made_with(name: str, run: FinishedRun) -> str:
    return run.made_with.get(name, "") or "unknown"


def _seeds(rows: Sequence[Row]) -> Iterator[str]:
    for task in dict.fromkeys(row.task for row in rows):
        few = [f"{row.group.letter} ({len(row.seeds)})" for row in rows if row.task == task and len(row.seeds) < FEW]
        if few:
            yield f"{task}: fewer than {FEW} seeds: {', '.join(few)}. Such intervals are too narrow."
    for task in dict.fromkeys(row.task for row in rows):
        if len({row.seeds for row in rows if row.task == task}) > 1:
            yield f"{task}: not every configuration has the same seeds."


def _letters_by(groups: Iterable[Group], what: Callable[[FinishedRun], str]) -> dict[str, list[str]]:
    """What the runs say -> the letters of the groups whose runs say so."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for text in dict.fromkeys(what(run) for run in group.runs):
            found.setdefault(text, []).append(group.letter)
    return found


def _listed(letters: dict[str, list[str]]) -> str:
    return "; ".join(f"{text}: {', '.join(each)}" for text, each in letters.items())
