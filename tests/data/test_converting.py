"""Conversions between formats: the same transitions, or a line that says which are lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqlab.data import data_formats
from dqlab.data.formats.base import Columns, whole_columns
from dqlab.data.locate import Dataset, convert_dataset, resolve_dataset
from dqlab.envs import tasks
from dqlab.errors import DataError

Named = Callable[[str], Dataset]


@pytest.fixture
def named(tmp_path: Path) -> Named:
    """A new name for a dataset of a format."""
    count = itertools.count()
    return lambda form: resolve_dataset(str(tmp_path / f"set-{next(count)}{data_formats.get(form).suffixes[0]}"))


def made(ends: list[str], with_next: bool = False) -> Columns:
    """Rows with these ends, each with numbers of its own; next observations follow on within episodes."""
    n = len(ends)
    rng = np.random.default_rng(n)
    states = rng.normal(size=(n + 1, 2)).astype(np.float32)
    following = states[1:].copy()
    over = np.array([end != "" for end in ends])
    following[over] = rng.normal(size=(int(over.sum()), 2))
    flags = (np.array([end == kind for end in ends]) for kind in ("terminal", "timeout"))
    actions, rewards = rng.uniform(-1, 1, (n, 1)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    return Columns(states[:-1], actions, rewards, *flags, following if with_next else None, {"note": "made"})


def transitions(columns: Columns, blind: bool = False) -> set[tuple[Any, ...]]:
    """All transitions, in a plain loop over the rows.

    Args:
        columns: the rows.
        blind: whether what follows a terminal row is left out, which D4RL's layout does not say.
    """
    arrays, knows, found = whole_columns(columns), columns.next_observations is not None, set()
    for row in range(len(columns)):
        if not knows and (row == len(columns) - 1 or arrays["timeouts"][row]):
            continue
        following = arrays["next_observations"][row] if knows else arrays["observations"][row + 1]
        if blind and arrays["terminals"][row]:
            following = np.zeros(0)
        numbers = (arrays["observations"][row], arrays["actions"][row], arrays["rewards"][row], following)
        found.add((*(np.asarray(number, np.float32).tobytes() for number in numbers), bool(arrays["terminals"][row])))
    return found


CASES = [("d4rl", "d4rl", False), ("d4rl", "npz", False), ("npz", "d4rl", False), ("npz", "npz", False)]
CASES += [("npz", "npz", True), ("npz", "d4rl", True)]


@pytest.mark.parametrize(("one", "other", "with_next"), CASES)
def test_every_pair_of_formats(one: str, other: str, with_next: bool, named: Named) -> None:
    """D4RL's does not read next observations: what these alone say is lost, and told."""
    ends = ["", *np.random.default_rng(len(one + other)).choice(["", "", "terminal", "timeout"], 12)]
    source, target = named(one), named(other)
    source.format.write(source.path, made(ends, with_next))
    told = convert_dataset(source, target)
    before, after = source.read(), target.read()
    if with_next and other == "d4rl":
        gone = transitions(before, blind=True) - transitions(after, blind=True)
        assert transitions(after, blind=True) <= transitions(before, blind=True)
        assert len(gone) == ends[:-1].count("timeout") + 1  # and the last row
        assert any(line.startswith(f"Lost: {len(gone)} of {len(before)} transition(s): it") for line in told)
    else:
        assert transitions(after) == transitions(before)
        assert not any(line.startswith("Lost") for line in told)
    assert after.metadata["note"] == "made"
    assert source.digest() in after.metadata["converted_from"]


def test_limits_stand_in_for_unrecorded_cuts(named: Named) -> None:
    n = 2001
    rows = Columns(np.arange(2.0 * n).reshape(n, 2), np.zeros((n, 1)), np.ones(n), np.zeros(n, bool))
    source, target = named("d4rl"), named("npz")
    source.format.write(source.path, rows)
    convert_dataset(Dataset("x", source.format, source.path, tasks.get("hopper-medium-v2")), target)
    assert np.flatnonzero(target.read().timeouts).tolist() == [999, 1999]  # type: ignore[arg-type]


def test_what_is_there_stays(named: Named) -> None:
    source, target = named("d4rl"), named("npz")
    source.format.write(source.path, made([""] * 4))
    convert_dataset(source, target)
    digest = target.digest()
    with pytest.raises(DataError, match="exists. --force replaces it"):
        convert_dataset(source, target)
    assert target.digest() == digest
    for each in (source, target):
        with pytest.raises(DataError, match="read and written at once"):
            convert_dataset(each, each, force=True)
    source.format.write(source.path, made([""] * 9))
    convert_dataset(source, target, force=True)
    assert len(transitions(target.read())) == 8
