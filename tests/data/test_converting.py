"""Conversions between every two formats: the same transitions, or a line that says which are lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqlab.data import data_formats
from dqlab.data.convert import convert_dataset
from dqlab.data.formats.base import Columns
from dqlab.data.locate import Dataset, resolve_dataset
from dqlab.errors import DataError

pytest.importorskip("minari")
COUNT = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "store"))
        patch.chdir(folder)
        yield folder


def named(form: str) -> Dataset:
    """A new name for a dataset of a format."""
    suffixes = data_formats.get(form).suffixes
    return resolve_dataset(f"set-{next(COUNT)}{suffixes[0]}" if suffixes else f"{form}:made/set-v{next(COUNT)}")


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
    with dataset.open() as columns:
        arrays = {
            name: None if (column := getattr(columns, name)) is None else column[0 : len(columns)]
            for name in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
        }
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


PAIRS = list(itertools.product(data_formats.names(), repeat=2))
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
    with source.open() as given, target.open() as columns:
        kept = "note" in columns.metadata
        assert kept or "note" not in given.metadata or any("metadata (" in line and "note" in line for line in told)
        assert not columns.metadata or source.digest() in columns.metadata["converted_from"]


def test_there_and_back_is_the_same_file_of_rows() -> None:
    """D4RL's rows, through Minari, keep every transition but the one whose end is no longer known."""
    source, middle, last = named("d4rl"), named("minari"), named("d4rl")
    source.format.write(source.path, made(["", "terminal", "", "", "timeout", "", ""], with_next=False))
    assert convert_dataset(source, middle)[1:] == [
        "Left out: 2 row(s) that are no transition, for it is not known what followed them (ends of episodes that were "
        "cut, and the last row); their observations are kept, their rewards are not.",
    ]
    assert transitions(middle)[0] == transitions(source)[0]
    told = convert_dataset(middle, last)
    assert told[1].startswith("Lost: 2 of 5 transition(s): it does not say what followed")
    assert len(transitions(middle, True)[0] - transitions(last, True)[0]) == 2


def test_limits_stand_in_for_unrecorded_cuts() -> None:
    n = 2001
    rows = Columns(np.arange(2.0 * n).reshape(n, 2), np.zeros((n, 1)), np.ones(n), np.zeros(n, bool))
    source, target = named("d4rl"), named("minari")
    source.format.write(source.path, rows)
    convert_dataset(Dataset("x", source.format, source.path, resolve_dataset("hopper-medium-v2").task), target)
    with target.open() as columns:
        assert np.flatnonzero(columns.timeouts[0 : len(columns)]).tolist() == [998, 1997]  # type: ignore[index]
        assert "Hopper-v4" in columns.metadata["env_spec"]


def test_what_is_there_stays(stores: Path) -> None:
    source, target = named("d4rl"), named("minari")
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
