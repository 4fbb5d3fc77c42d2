"""Episodes: recorded in an environment, kept in files of whole episodes, and as many of them as are asked for."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.reading import reading_error, write_errors
from dqlab.envs import make_env
from dqlab.errors import ConfigError, DataError, RunError
from dqlab.files import atomic_path, write_text

if TYPE_CHECKING:
    from dqlab.tools.collect.behaviours import CollectionContext, PolicyBehaviour

TOLERANCE = 1e-6
EPISODES = "episodes"
"""Folder of what is rolled out."""
SHARD_ROWS = 10_000
"""A file of episodes is closed when it has so many rows: what a kill can cost."""


@dataclass(frozen=True)
class Amount:
    """So many episodes, or so many transitions; neither for all that there is.

    Attributes:
        episodes: whole ones.
        transitions: rows; the last episode is cut where they are full.
    """

    episodes: int = 0
    transitions: int = 0

    @property
    def is_everything(self) -> bool:
        return not (self.episodes or self.transitions)

    def exceeds(self, lengths: Sequence[int]) -> bool:
        """Whether it is more than episodes of these lengths."""
        return len(lengths) < self.episodes or sum(lengths) < self.transitions

    def split(self, shares: Mapping[str, float]) -> dict[str, Amount]:
        """An amount for each share, whole numbers that add up (largest remainders are rounded up)."""
        count = self.episodes or self.transitions
        exact = np.array(list(shares.values())) * count
        counts = np.floor(exact + TOLERANCE).astype(int)
        short = count - int(counts.sum())
        counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
        if count and not counts.all():
            raise ConfigError(
                f"{count} are too few for shares {dict(shares)}: one of them would be empty. Ask for more."
            )
        unit = "episodes" if self.episodes else "transitions"
        return {name: Amount(**{unit: int(part)}) for name, part in zip(shares, counts, strict=True)}

    def spread_evenly(self, lengths: Sequence[int], what: str) -> list[int]:
        """Numbers of episodes, spread evenly over all of them, that suffice.

        Args:
            lengths: of all episodes there are.
            what: what they are, for the message.

        Raises:
            DataError: there are not so many.
        """
        if self.exceeds(lengths):
            raise DataError(
                f"{what} has {len(lengths):,} episodes with {sum(lengths):,} transitions, fewer than are asked for "
                f"({self.episodes or self.transitions:,}). Ask for fewer, or train for longer."
            )
        if self.is_everything:
            return list(range(len(lengths)))
        if self.episodes:
            return [number * len(lengths) // self.episodes for number in range(self.episodes)]
        return _spread(np.asarray(lengths), self.transitions)


def _spread(lengths: np.ndarray[tuple[int], np.dtype[np.int64]], wanted: int) -> list[int]:
    """Episodes taken whenever the rows taken fall behind their share of the rows passed."""
    taken, passed, chosen = 0, 0, []
    for number, length in enumerate(lengths.tolist()):
        passed += length
        if taken < wanted * passed / int(lengths.sum()):
            chosen.append(number)
            taken += length
    return chosen


def check_shares(mixture: Mapping[str, float]) -> None:
    """See that shares are positive and sum to 1.

    Raises:
        ConfigError: they do not.
    """
    values = list(mixture.values()) if isinstance(mixture, Mapping) else []
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not values or not numbers:
        raise ConfigError(f"Collection.mixture must be a dictionary policy -> share, not {mixture!r}.")
    if min(values) <= 0 or abs(sum(values) - 1) > TOLERANCE:
        raise ConfigError(
            f"Collection.mixture {dict(mixture)}: shares must be positive and sum to 1, these sum to {sum(values):g}."
        )


Array = NDArray[Any]
Rows = dict[str, Array]
"""Arrays (n, ...) by D4RL's names: `observations`, `actions`, ..., and `infos/qpos`, `infos/qvel` of MuJoCo's."""
LENGTHS = "lengths"
RESUME_ADVICE = "Free some space and run the same command again: it continues."


def save_arrays(path: Path, arrays: Rows) -> None:
    """Write arrays by name into one file, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    with write_errors(path, RESUME_ADVICE), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def save_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all; raises as `save_arrays` does."""
    with write_errors(path, RESUME_ADVICE):
        write_text(path, text)


def load_arrays(path: Path, *names: str) -> Rows:
    """Arrays of a file that `save_arrays` wrote: those named, or all.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names or stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        mend = "Delete it and run the same command again: it is made anew."
        raise reading_error(str(path), "is damaged", error, mend) from error


def join_rows(episodes: Sequence[Rows]) -> Rows:
    """Rows of several episodes, one after the other."""
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}


def save_episodes(path: Path, episodes: Sequence[Rows]) -> None:
    """Write whole episodes into one file."""
    lengths = np.array([len(episode["rewards"]) for episode in episodes], dtype=np.int64)
    save_arrays(path, {**(join_rows(episodes) if episodes else {}), LENGTHS: lengths})


def lengths_of(path: Path) -> list[int]:
    """Lengths of a file's episodes."""
    return [int(length) for length in load_arrays(path, LENGTHS)[LENGTHS]]


def load_episodes(path: Path) -> list[Rows]:
    """A file's episodes."""
    arrays = load_arrays(path)
    ends = np.cumsum(arrays.pop(LENGTHS))
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
        ends = np.cumsum([len(episode["rewards"]) for episode in episodes])
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


DTYPES = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "next_observations": np.float32,
    "terminals": np.bool_,
    "timeouts": np.bool_,
    "infos/qpos": np.float64,
    "infos/qvel": np.float64,
}


class EpisodeRecorder(gymnasium.Wrapper):  # type: ignore[misc]
    """Keeps the rows of an environment with actions in [-1, 1], and hands over every episode when it ends.

    Actions reach the environment as they are stored, in float32, so that rows can be replayed.

    Args:
        env: the environment.
        finished: called with the rows of each episode.
    """

    def __init__(self, env: Any, finished: Callable[[Rows], None]) -> None:
        super().__init__(env)
        self._finished, self._rows = finished, list[dict[str, Any]]()

    def reset(self, **arguments: Any) -> Any:
        """Begin an episode; one that is under way ends here, as cut."""
        self.cut()
        observation, info = self.env.reset(**arguments)
        self._observation = _kept(observation)
        return observation, info

    def step(self, action: NDArray[np.floating]) -> Any:
        action = _kept(action)
        row = {"observations": self._observation, "actions": action.copy(), **physics_state(self.env)}
        given = self.env.step(action)
        observation, reward, terminated, truncated = given[:4]
        self._observation = _kept(observation)
        ended = {"terminals": terminated, "timeouts": truncated and not terminated}
        self._rows.append({**row, "rewards": reward, "next_observations": self._observation, **ended})
        if terminated or truncated:
            self._hand_over()
        return given

    def cut(self) -> None:
        """End the episode that is under way, if any."""
        if self._rows:
            self._rows[-1]["timeouts"] = True
            self._hand_over()

    def _hand_over(self) -> None:
        rows, self._rows = self._rows, []
        self._finished({name: np.asarray([row[name] for row in rows], dtype=DTYPES[name]) for name in rows[0]})


def _kept(values: Any) -> NDArray[np.float32]:
    """A copy: environments may use their arrays again."""
    return np.array(values, dtype=np.float32)


def physics_state(env: Any) -> Rows:
    """Positions and velocities of a MuJoCo environment, from which a step can be replayed; none of others."""
    data: Any = getattr(env.unwrapped, "data", None)
    if not (hasattr(data, "qpos") and hasattr(data, "qvel")):
        return {}
    return {"infos/qpos": np.array(data.qpos).ravel(), "infos/qvel": np.array(data.qvel).ravel()}


def roll_out(behaviour: PolicyBehaviour, context: CollectionContext, amount: Amount, key: str) -> EpisodeRows:
    """So many episodes of a behaviour: those that are there already, and as many more as are missing.

    Raises:
        DataError: a file of episodes is damaged, or cannot be written.
        RunError: the behaviour's actions are not finite.
    """
    folder = context.folder / EPISODES / f"{behaviour_slug(key)}-{behaviour.folder}"
    episodes: list[Rows] = []
    while (path := folder / f"from-{len(episodes):08d}.npz").exists():
        episodes += load_episodes(path)
    with open_environments(behaviour, context, context.n_envs) as envs:
        while amount.exceeds(_lengths(episodes)):
            shard = _shard(behaviour, context, envs, key, episodes, amount)
            save_episodes(folder / f"from-{len(episodes):08d}.npz", shard)
            episodes += shard
            wanted = f"{amount.episodes:,} episodes" if amount.episodes else f"{amount.transitions:,} transitions"
            context.log(f"{key}: {len(episodes):,} episodes, {sum(_lengths(episodes)):,} transitions of {wanted}")
    return EpisodeRows.take(episodes, amount)


def mean_return(behaviour: PolicyBehaviour, context: CollectionContext, key: str, count: int) -> float:
    """Mean return of the first episodes, stepped together."""
    with open_environments(behaviour, context, count) as envs:
        episodes = run_episodes(behaviour, context, envs, key, 0)[:count]
    return float(np.mean([episode["rewards"].sum(dtype=np.float64) for episode in episodes]))


@contextmanager
def open_environments(behaviour: PolicyBehaviour, context: CollectionContext, count: int) -> Iterator[list[Any]]:
    """So many environments, or a few more, so that the behaviour's groups are whole."""
    envs = [make_env(context.task, context.physics) for _ in range(_whole_groups(count, behaviour))]
    try:
        yield envs
    finally:
        for env in envs:
            env.close()


def _whole_groups(count: int, behaviour: PolicyBehaviour) -> int:
    return math.ceil(count / behaviour.rows) * behaviour.rows


def _lengths(episodes: Sequence[Rows]) -> list[int]:
    return [len(episode["rewards"]) for episode in episodes]


def _shard(
    behaviour: PolicyBehaviour,
    context: CollectionContext,
    envs: list[Any],
    key: str,
    known: Sequence[Rows],
    amount: Amount,
) -> list[Rows]:
    """Whole groups of episodes, as many as fill a file or are missing."""
    new: list[Rows] = []
    while sum(_lengths(new)) < SHARD_ROWS and amount.exceeds(_lengths([*known, *new])):
        first = len(known) + len(new)
        wanted = _whole_groups(amount.episodes - first, behaviour) if amount.episodes else len(envs)
        new += run_episodes(behaviour, context, envs[:wanted], key, first)
    return new


def episode_seeds(seed: int, key: str, number: int) -> tuple[int, int]:
    """Seeds of one episode: the environment's, and that of the behaviour's noise."""
    state = np.random.SeedSequence([seed, zlib.crc32(key.encode()), number]).generate_state(2)
    return int(state[0]), int(state[1])


def run_episodes(
    behaviour: PolicyBehaviour, context: CollectionContext, envs: list[Any], key: str, first: int
) -> list[Rows]:
    """Episodes first, first + 1, ..., one in each environment, stepped together."""
    recorded: dict[int, Rows] = {}
    recorders = [EpisodeRecorder(env, partial(recorded.__setitem__, number)) for number, env in enumerate(envs)]
    seeds = [episode_seeds(context.seed, key, first + number) for number in range(len(envs))]
    act = behaviour.begin([noise for _, noise in seeds])
    pairs = zip(recorders, seeds, strict=True)
    observations = np.stack([recorder.reset(seed=start)[0] for recorder, (start, _) in pairs])
    while len(recorded) < len(envs):
        actions = act(observations)
        if not np.isfinite(actions).all():
            raise RunError(f"The behaviour '{key}' gives actions that are not finite.")
        for number, recorder in enumerate(recorders):
            if number not in recorded:
                observations[number] = recorder.step(np.clip(actions[number], -1.0, 1.0))[0]
    return [recorded[number] for number in range(len(envs))]


def behaviour_slug(key: str) -> str:
    """A mixture's name of a behaviour, as part of file names and of metadata's."""
    kind, _, argument = key.partition(":")
    short = re.sub(r"[^\w.+-]+", "-", Path(argument).stem if "/" in argument else argument).strip("-")
    return f"{kind}-{short}" if short else kind
