"""What happens in an environment, as rows of a dataset."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dqlab.envs import make_env
from dqlab.errors import RunError
from dqlab.tools.collect.episodes import (
    EPISODES,
    Amount,
    EpisodeRows,
    Rows,
    behaviour_slug,
    lengths_of,
    save_episodes,
    select_rows,
)

if TYPE_CHECKING:
    from dqlab.tools.collect.behaviours import CollectionContext, PolicyBehaviour

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


SHARD_ROWS = 10_000
"""A file of episodes is closed when it has so many rows: what a kill can cost."""


def roll_out(
    behaviour: PolicyBehaviour, context: CollectionContext, amount: Amount, key: str
) -> tuple[EpisodeRows, ...]:
    """So many episodes of a behaviour: those that are there already, and as many more as are missing.

    Raises:
        DataError: a file of episodes is damaged, or cannot be written.
        RunError: the behaviour's actions are not finite.
    """
    folder = context.folder / EPISODES / f"{behaviour_slug(key)}-{behaviour.folder}"
    shards = dict(_unbroken(folder))
    while amount.exceeds(lengths := [int(length) for each in shards.values() for length in each]):
        path = _path(folder, len(lengths))
        save_episodes(path, _shard(behaviour, context, key, len(lengths), amount, lengths))
        shards[path] = lengths_of(path)
        _log_progress(context, key, [*lengths, *shards[path]], amount)
    return tuple(_taken(shards, amount))


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


def run_group(behaviour: PolicyBehaviour, context: CollectionContext, key: str, count: int) -> list[Rows]:
    """The first episodes, in environments made for them, stepped together."""
    group = math.ceil(count / behaviour.rows) * behaviour.rows
    envs = [make_env(context.task, context.physics) for _ in range(group)]
    try:
        return run_episodes(behaviour, context, envs, key, 0)[:count]
    finally:
        for env in envs:
            env.close()


def _shard(
    behaviour: PolicyBehaviour, context: CollectionContext, key: str, first: int, amount: Amount, lengths: list[int]
) -> list[Rows]:
    """Whole groups of episodes, as many as fill a file or are missing."""
    group = math.ceil(context.n_envs / behaviour.rows) * behaviour.rows
    envs = [make_env(context.task, context.physics) for _ in range(group)]
    episodes: list[Rows] = []
    new: list[int] = []
    try:
        while sum(new) < SHARD_ROWS and amount.exceeds([*lengths, *new]):
            left = amount.episodes - len(lengths) - len(new) if amount.episodes else group
            wanted = min(group, math.ceil(left / behaviour.rows) * behaviour.rows)
            episodes += run_episodes(behaviour, context, envs[:wanted], key, first + len(new))
            new = [len(episode["rewards"]) for episode in episodes]
    finally:
        for env in envs:
            env.close()
    return episodes


def _path(folder: Path, first: int) -> Path:
    return folder / f"from-{first:08d}.npz"


def _unbroken(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Files of an unbroken row of episodes, and their lengths."""
    first = 0
    while (path := _path(folder, first)).exists():
        lengths = lengths_of(path)
        yield path, lengths
        first += len(lengths)


def _taken(shards: dict[Path, Any], amount: Amount) -> Iterator[EpisodeRows]:
    episodes, rows = amount.episodes or math.inf, amount.transitions or math.inf
    for path, lengths in shards.items():
        count = int(min(len(lengths), episodes))
        limit = int(min(lengths[:count].sum(), rows))
        piece = select_rows(path, range(count), limit)
        episodes, rows = episodes - count, rows - limit
        if len(piece.rows):
            yield piece


def _log_progress(context: CollectionContext, key: str, lengths: list[int], amount: Amount) -> None:
    wanted = f"{amount.episodes:,} episodes" if amount.episodes else f"{amount.transitions:,} transitions"
    context.log(f"{key}: {len(lengths):,} episodes, {sum(lengths):,} transitions of {wanted}")
