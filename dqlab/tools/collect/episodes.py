"""Episodes: kept in files of whole ones, and as many of them as are asked for."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import reading_error, write_errors
from dqlab.errors import ConfigError, DataError
from dqlab.files import atomic_path

TOLERANCE = 1e-6
Array = NDArray[Any]
Rows = dict[str, Array]
"""Arrays (n, ...) by D4RL's names: `observations`, `actions`, ..., and `infos/qpos`, `infos/qvel` of MuJoCo's."""
RESUME_ADVICE = "Free some space and run the same command again: it continues."
REMAKE_ADVICE = "Delete it and run the same command again: it is made anew."


@dataclass(frozen=True)
class Amount:
    """So many whole episodes, or so many transitions, whose last episode is cut; neither for all that there is."""

    episodes: int = 0
    transitions: int = 0

    def exceeds(self, episodes: Sequence[Rows]) -> bool:
        """Whether it is more than these."""
        return len(episodes) < self.episodes or sum(lengths_of(episodes)) < self.transitions

    def split(self, shares: Mapping[str, float]) -> dict[str, Amount]:
        """An amount for each share, whole numbers that add up (largest remainders are rounded up)."""
        count = self.episodes or self.transitions
        exact = np.array(list(shares.values())) / sum(shares.values()) * count
        counts = np.floor(exact + TOLERANCE).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: count - int(counts.sum())]] += 1
        if count and not counts.all():
            raise ConfigError(f"{count} are too few for shares {dict(shares)}: one would be empty. Ask for more.")
        unit = "episodes" if self.episodes else "transitions"
        return {name: Amount(**{unit: int(part)}) for name, part in zip(shares, counts, strict=True)}

    def spread_evenly(self, episodes: Sequence[Rows], what: str) -> list[Rows]:
        """Episodes that suffice, spread evenly over all of these; or a DataError."""
        lengths = lengths_of(episodes)
        if self.exceeds(episodes):
            said = f"{what} has {len(lengths):,} episodes with {sum(lengths):,} transitions, fewer than are asked for"
            raise DataError(f"{said} ({self.episodes or self.transitions:,}). Ask for fewer, or train for longer.")
        sizes = [1] * len(episodes) if self.episodes else lengths
        total, taken, passed, chosen = sum(sizes), 0, 0, []
        wanted = self.episodes or self.transitions or total
        for episode, size in zip(episodes, sizes, strict=True):
            passed += size
            if taken < wanted * passed / total:  # what is taken falls behind its share of what is passed
                chosen.append(episode)
                taken += size
        return chosen


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes this one when the block ends well; a DataError where it cannot be written."""
    with write_errors(path, RESUME_ADVICE), atomic_path(path) as temporary:
        yield temporary


def lengths_of(episodes: Sequence[Rows]) -> list[int]:
    """Numbers of rows."""
    return [len(episode["rewards"]) for episode in episodes]


def join_rows(episodes: Sequence[Rows]) -> Rows:
    """Rows of several episodes, one after the other."""
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}


def save_episodes(path: Path, episodes: Sequence[Rows]) -> None:
    """Write whole episodes into one file, whole or not at all; a DataError where it cannot be written."""
    rows = join_rows(episodes) if episodes else {}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **rows, lengths=np.array(lengths_of(episodes), dtype=np.int64))  # type: ignore[arg-type]


def load_episodes(path: Path) -> list[Rows]:
    """A file's episodes; a DataError where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise reading_error(str(path), "is damaged", error, REMAKE_ADVICE) from error
    ends = np.cumsum(arrays.pop("lengths"))
    split = {name: np.split(values, ends[:-1]) for name, values in arrays.items()}
    return [{name: parts[number] for name, parts in split.items()} for number in range(len(ends))]


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of episodes, one after the other, and whether the last one is cut in its middle."""

    rows: Rows
    cut: bool = False

    @classmethod
    def take(cls, episodes: Sequence[Rows], amount: Amount) -> EpisodeRows:
        """Of the first episodes so many; the last one is cut where the rows are full."""
        episodes = episodes[: amount.episodes or None]
        ends = np.cumsum(lengths_of(episodes))
        limit = min(amount.transitions or ends[-1], ends[-1])
        rows = {name: values[:limit] for name, values in join_rows(episodes).items()}
        cut = limit not in ends
        rows["timeouts"][-1] |= cut
        return cls(rows, cut)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Returns of the episodes that are whole; that of the one that is cut, where there is no other."""
        ends = np.flatnonzero(self.rows["terminals"] | self.rows["timeouts"])
        totals = np.diff(np.cumsum(self.rows["rewards"], dtype=np.float64)[ends], prepend=0.0)
        return totals[:-1] if self.cut and len(totals) > 1 else totals


def behaviour_slug(key: str) -> str:
    """A mixture's name of a behaviour, as part of file names and of metadata's."""
    kind, _, argument = key.partition(":")
    short = re.sub(r"[^\w.+-]+", "-", Path(argument).stem if "/" in argument else argument).strip("-")
    return f"{kind}-{short}" if short else kind
