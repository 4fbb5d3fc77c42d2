"""Conversions between formats: the same transitions, or a line that says which are lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqlab.data import data_formats
from dqlab.data.formats.base import Columns, whole_columns
from dqlab.data.locate import Dataset, convert_dataset, resolve_dataset
from dqlab.errors import DataError

COUNT = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def named(form: str) -> Dataset:
    """A new name for a dataset of a format."""
    return resolve_dataset(f"set-{next(COUNT)}{data_formats.get(form).suffixes[0]}")


def made(ends: list[str], with_next: bool) -> Columns:
    """Rows with these ends, each with numbers of its own; next observations follow on within episodes."""
    n = len(ends)
    rng = np.random.default_rng(n)
    states = rng.normal(size=(n + 1, 2)).astype(np.float32)
    following = states[1:].copy()
    over = np.array([end != "" for end in ends])
    following[over] = rng.normal(size=(int(over.sum()), 2))
    return Columns(
        states[:-1],
        rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        np.array([end == "terminal" for end in ends]),
        np.array([end == "timeout" for end in ends]),
        following if with_next else None,
        {"note": "made"},
    )


def transitions(dataset: Dataset, blind: bool = False) -> tuple[set[tuple[Any, ...]], bool]:
    """All transitions, in a plain loop over the columns, and whether next observations are known.

    Args:
        dataset: whose.
        blind: whether what follows a terminal row is left out, which D4RL's layout does not say.
    """
    arrays = {"timeouts": None, "next_observations": None, **whole_columns(dataset.read())}
    knows, found = arrays["next_observations"] is not None, set()
    for row in range(len(arrays["rewards"])):
        if not knows and (row == len(arrays["rewards"]) - 1 or arrays["timeouts"][row]):
            continue
        following = arrays["next_observations"][row] if knows else arrays["observations"][row + 1]
        if blind and arrays["terminals"][row]:
            following = np.zeros(0)
        numbers = (arrays["observations"][row], arrays["actions"][row], arrays["rewards"][row], following)
        found.add((*(np.asarray(number, np.float32).tobytes() for number in numbers), bool(arrays["terminals"][row])))
    return found, knows


PAIRS = list(itertools.product(("d4rl", "npz"), repeat=2))
UNREAD = "d4rl"
"""A format that does not read next observations: writing them makes no difference."""


CASES = [(pair, with_next) for pair in PAIRS for with_next in (True, False) if with_next or pair[0] != UNREAD]


@pytest.mark.parametrize(("pair", "with_next"), CASES, ids=[f"{a} to {b}, {with_next}" for (a, b), with_next in CASES])
def test_every_pair_of_formats(pair: tuple[str, str], with_next: bool) -> None:
    ends = ["", *np.random.default_rng(len(" ".join(pair))).choice(["", "", "terminal", "timeout"], 12)]
    source, target = (named(form) for form in pair)
    source.format.write(source.path, made(ends, with_next))
    told = convert_dataset(source, target)
    (before, knew), (after, knows) = transitions(source), transitions(target)
    if knew and not knows:
        before, after = transitions(source, blind=True)[0], transitions(target, blind=True)[0]
        assert after <= before
        assert len(before - after) == ends[:-1].count("timeout") + 1  # and the last row
        assert any(line.startswith(f"Lost: {len(before - after)} of {len(before)} transition(s): it") for line in told)
    else:
        assert after == before
        assert not any(line.startswith("Lost") for line in told)
    columns = target.read()
    assert columns.metadata["note"] == "made"
    assert source.digest() in columns.metadata["converted_from"]


def test_limits_stand_in_for_unrecorded_cuts() -> None:
    n = 2001
    rows = Columns(np.arange(2.0 * n).reshape(n, 2), np.zeros((n, 1)), np.ones(n), np.zeros(n, bool))
    source, target = named("d4rl"), named("npz")
    source.format.write(source.path, rows)
    convert_dataset(Dataset("x", source.format, source.path, resolve_dataset("hopper-medium-v2").task), target)
    columns = target.read()
    assert np.flatnonzero(columns.timeouts).tolist() == [999, 1999]  # type: ignore[arg-type]


def test_what_is_there_stays(stores: Path) -> None:
    source, target = named("d4rl"), named("npz")
    source.format.write(source.path, made([""] * 4, False))
    convert_dataset(source, target)
    digest = target.digest()
    with pytest.raises(DataError, match="exists. --force replaces it"):
        convert_dataset(source, target)
    assert target.digest() == digest
    with pytest.raises(DataError, match="read and written at once"):
        convert_dataset(source, source, force=True)
    with pytest.raises(DataError, match="read and written at once"):
        convert_dataset(target, target, force=True)
    source.format.write(source.path, made([""] * 9, False))
    convert_dataset(source, target, force=True)
    assert len(transitions(target)[0]) == 8
