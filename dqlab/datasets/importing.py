"""A local copy of a task's data put into D4RL's cache, once it is known to fit."""

from __future__ import annotations

import shutil
from pathlib import Path

from dqlab.data.bounds import WAYS
from dqlab.data.own import COLLECTED, CONVERTED, PROVENANCE, SHARE
from dqlab.data.recorded import forget
from dqlab.datasets.checks import verify
from dqlab.datasets.converting import check_target, convert
from dqlab.datasets.locating import Dataset, find, name_it, task_of
from dqlab.datasets.survey import Tell
from dqlab.envs.tasks import tasks
from dqlab.errors import DataError
from dqlab.files import atomic_path

CAVEAT = "It was converted: scores obtained with it are marked as not D4RL's. Only D4RL's own file counts as such."


def bring(name: str, task_name: str, force: bool = False, tell: Tell = lambda rows: None) -> list[str]:
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
    source, target = find(name, task_name), name_it(task_name)
    if target.place.exists() and target.place.samefile(source.place):
        return [f"{target.place} is that file already."]
    if other := _named(source.place.name) - {task.name}:
        raise DataError(f"{name} is called as D4RL's {min(other)}, not {task.name}. If it is, give it another name.")
    check_target(target, force)
    seen = verify(source, tell)
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
        forget(target.place)
        said = [f"{target.place}: {seen.survey.rows:,} rows, SHA-256 {seen.digest}", *notes]
        if seen.survey.rows < SHARE * task.rows:
            said.append(f"D4RL's has about {task.rows:,} rows: scores obtained with this are marked as not D4RL's.")
        return [*said, CAVEAT] if CONVERTED in seen.survey.metadata else said
    lines = convert(source, target, force)
    forget(target.place)
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
