"""Rolling behaviours out: episodes are numbered, kept as they come, and the same however many are stepped at once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.collection.amounts import Amount
from dqlab.collection.behaviours import EPISODES, Acting, Stage, slug
from dqlab.collection.recording import Recorder, Rows
from dqlab.collection.shards import Piece, lengths_of, pieces_of, save_episodes
from dqlab.envs.making import make_env
from dqlab.errors import RunError

SHARD_ROWS = 10_000
"""A file of episodes is closed when it has so many rows: what a kill can cost."""


def roll_out(behaviour: Acting, stage: Stage, amount: Amount, key: str) -> tuple[Piece, ...]:
    """So many episodes of a behaviour: those that are there already, and as many more as are missing.

    Raises:
        DataError: a file of episodes is damaged, or cannot be written.
        RunError: the behaviour's actions are not finite.
    """
    folder = stage.folder / EPISODES / f"{slug(key)}-{behaviour.folder}"
    shards = dict(_kept(folder))
    while amount.missing(lengths := [int(length) for each in shards.values() for length in each]):
        path = _path(folder, len(lengths))
        save_episodes(path, _shard(behaviour, stage, key, len(lengths), amount, lengths))
        shards[path] = lengths_of(path)
        _tell(stage, key, [*lengths, *shards[path]], amount)
    return tuple(_taken(shards, amount))


def episode_seeds(seed: int, key: str, number: int) -> tuple[int, int]:
    """Seeds of one episode: the environment's, and that of the behaviour's noise."""
    state = np.random.SeedSequence([seed, zlib.crc32(key.encode()), number]).generate_state(2)
    return int(state[0]), int(state[1])


def run_episodes(behaviour: Acting, stage: Stage, envs: list[Any], key: str, first: int) -> list[Rows]:
    """Episodes first, first + 1, ..., one in each environment, stepped together."""
    recorded: dict[int, Rows] = {}
    recorders = [Recorder(env, partial(recorded.__setitem__, number)) for number, env in enumerate(envs)]
    seeds = [episode_seeds(stage.seed, key, first + number) for number in range(len(envs))]
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


def run_group(behaviour: Acting, stage: Stage, key: str, count: int) -> list[Rows]:
    """The first episodes, in environments made for them, stepped together."""
    group = math.ceil(count / behaviour.rows) * behaviour.rows
    envs = [make_env(stage.task, stage.physics) for _ in range(group)]
    try:
        return run_episodes(behaviour, stage, envs, key, 0)[:count]
    finally:
        for env in envs:
            env.close()


def _shard(behaviour: Acting, stage: Stage, key: str, first: int, amount: Amount, lengths: list[int]) -> list[Rows]:
    """Whole groups of episodes, as many as fill a file or are missing."""
    group = math.ceil(stage.n_envs / behaviour.rows) * behaviour.rows
    envs = [make_env(stage.task, stage.physics) for _ in range(group)]
    episodes: list[Rows] = []
    new: list[int] = []
    try:
        while sum(new) < SHARD_ROWS and amount.missing([*lengths, *new]):
            left = amount.episodes - len(lengths) - len(new) if amount.episodes else group
            wanted = min(group, math.ceil(left / behaviour.rows) * behaviour.rows)
            episodes += run_episodes(behaviour, stage, envs[:wanted], key, first + len(new))
            new = [len(episode["rewards"]) for episode in episodes]
    finally:
        for env in envs:
            env.close()
    return episodes


def _path(folder: Path, first: int) -> Path:
    return folder / f"from-{first:08d}.npz"


def _kept(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Files of an unbroken row of episodes, and their lengths."""
    first = 0
    while (path := _path(folder, first)).exists():
        lengths = lengths_of(path)
        yield path, lengths
        first += len(lengths)


def _taken(shards: dict[Path, Any], amount: Amount) -> Iterator[Piece]:
    episodes, rows = amount.episodes or math.inf, amount.transitions or math.inf
    for path, lengths in shards.items():
        count = int(min(len(lengths), episodes))
        limit = int(min(lengths[:count].sum(), rows))
        piece = pieces_of(path, range(count), limit)
        episodes, rows = episodes - count, rows - limit
        if len(piece.rows):
            yield piece


def _tell(stage: Stage, key: str, lengths: list[int], amount: Amount) -> None:
    wanted = f"{amount.episodes:,} episodes" if amount.episodes else f"{amount.transitions:,} transitions"
    stage.say(f"{key}: {len(lengths):,} episodes, {sum(lengths):,} transitions of {wanted}")
