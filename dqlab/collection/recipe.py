"""The recipe of a D4RL-style medium-expert set: train, rank the checkpoints, roll two of them out, write HDF5."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
import numpy as np
from numpy.typing import NDArray

from dqlab.collection.behaviour import BehaviourPolicy, BehaviourTraining
from dqlab.data.d4rl import write_d4rl
from dqlab.envs.making import make_env
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import DataError
from dqlab.fields import check_fields, require
from dqlab.files import write_text
from dqlab.registry import configurable

Say = Callable[[str], None]
Episode = dict[str, NDArray[Any]]


@configurable("collection")
@dataclass(frozen=True)
class Collection:
    """Collect a `<robot>-medium-expert` set with one training run's own checkpoints.

    Attributes:
        task: whose environment and reference scores are used.
        name: of the set, and of the file.
        medium_scores, expert_scores: D4RL scores between which each behaviour policy's mean must lie.
        episodes: complete episodes of each of the two policies, medium first.
        ranking_episodes: by which a checkpoint is ranked.
        seed: of the initial states and the action noise of the episodes.
    """

    task: str = ""
    name: str = ""
    medium_scores: tuple[float, float] = (40.0, 70.0)
    expert_scores: tuple[float, float] = (85.0, 150.0)
    episodes: int = 25
    ranking_episodes: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(bool(self.task), self, "task", "set: one of those that `dqlab list task` shows")
        require(bool(self.name), self, "name", "set")

    def run(self, folder: Path, say: Say = print) -> Path:
        """Train (or reuse what is trained), rank, roll out; returns the written file.

        Raises:
            DataError: no checkpoint's score lies in one of the two ranges.
        """
        task, training = tasks.get(self.task), BehaviourTraining()
        say(f"Behaviour policies for {task.robot}: {training.steps:,} steps of PPO (kept in {folder / 'behaviour'})")
        checkpoints = training.run(task, folder / "behaviour")
        scores = self._rank(task, training.physics, checkpoints, folder / "ranking.json", say)
        chosen = {
            "medium": _nearest(scores, self.medium_scores, "medium", sum(self.medium_scores) / 2),
            "expert": _nearest(scores, self.expert_scores, "expert", self.expert_scores[1]),
        }
        episodes: list[Episode] = []
        metadata = self._metadata(task, training)
        for number, (level, path) in enumerate(chosen.items()):
            rolled = roll_out(task, training.physics, BehaviourPolicy(path), self.episodes, self.seed + number)
            metadata[f"{level}_policy"] = _describe(task, path, rolled)
            say(f"{level}: {metadata[f'{level}_policy']}")
            episodes += rolled
        target = folder / f"{self.name}.hdf5"
        write_d4rl(target, _join(episodes), metadata)
        return target

    def _rank(self, task: Task, physics: str, checkpoints: list[Path], cache: Path, say: Say) -> dict[Path, float]:
        known = json.loads(cache.read_text()) if cache.exists() else {}
        for path in checkpoints:
            if path.name not in known:
                rolled = roll_out(task, physics, BehaviourPolicy(path), self.ranking_episodes, self.seed + 1000)
                known[path.name] = _mean_score(task, rolled)
                say(f"{path.name}: score {known[path.name]:.1f}")
                write_text(cache, json.dumps(known, indent=1))
        return {path: known[path.name] for path in checkpoints}

    def _metadata(self, task: Task, training: BehaviourTraining) -> dict[str, str]:
        import gymnasium
        import mujoco
        import stable_baselines3

        return {
            "name": self.name,
            "provenance": "Collected by dqlab; not D4RL. See `dqlab collect --help`.",
            "environment": f"{task.env_id}, physics {training.physics}, episode limit {task.episode_limit}",
            "behaviour": str(training),
            "versions": f"gymnasium {gymnasium.__version__}, mujoco {mujoco.__version__}, "
            f"stable-baselines3 {stable_baselines3.__version__}",
            "config": gin.operative_config_str(),
            "licence": "MIT, as dqlab",
        }


def roll_out(task: Task, physics: str, policy: BehaviourPolicy, episodes: int, seed: int) -> list[Episode]:
    """Complete stochastic episodes, all stepped together; episode i starts from the i-th seed derived from `seed`."""
    seeds = np.random.SeedSequence(seed).generate_state(episodes)
    policy.seed(int(seeds[0]))
    envs = [make_env(task, physics) for _ in range(episodes)]
    observations = [env.reset(seed=int(s))[0] for env, s in zip(envs, seeds, strict=True)]
    rows: list[list[tuple[Any, ...]]] = [[] for _ in envs]
    live = list(range(episodes))
    while live:
        actions = policy.act(np.stack([observations[i] for i in live]))
        still = []
        for i, action in zip(live, actions, strict=True):
            following, reward, terminated, truncated, _ = envs[i].step(action)
            rows[i].append((observations[i], action, reward, terminated, truncated and not terminated))
            observations[i] = following
            if not (terminated or truncated):
                still.append(i)
        live = still
    return [_episode(row) for row in rows]


def _episode(rows: list[tuple[Any, ...]]) -> Episode:
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    kinds = (np.float32, np.float32, np.float32, np.bool_, np.bool_)
    columns = zip(*rows, strict=True)
    return {name: np.asarray(column, dtype=kind) for name, kind, column in zip(names, kinds, columns, strict=True)}


def _join(episodes: list[Episode]) -> Episode:
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}


def _returns(episodes: list[Episode]) -> NDArray[np.float64]:
    return np.array([episode["rewards"].sum(dtype=np.float64) for episode in episodes])


def _mean_score(task: Task, episodes: list[Episode]) -> float:
    return float(task.score(_returns(episodes).mean()))


def _describe(task: Task, path: Path, episodes: list[Episode]) -> str:
    returns = _returns(episodes)
    return (
        f"PPO checkpoint {path.name}, stochastic, {len(episodes)} episodes, return {returns.mean():.0f} "
        f"+- {returns.std():.0f}, D4RL score {_mean_score(task, episodes):.1f}"
    )


def _nearest(scores: dict[Path, float], bounds: tuple[float, float], level: str, wanted: float) -> Path:
    """The checkpoint inside the bounds whose score is nearest the wanted one."""
    inside = {path: score for path, score in scores.items() if bounds[0] <= score <= bounds[1]}
    if not inside:
        best = max(scores.values())
        raise DataError(
            f"No {level} policy: no checkpoint scores between {bounds[0]:g} and {bounds[1]:g} (best: {best:.1f}). "
            "Train longer (BehaviourTraining.steps), another seed, or widen the range."
        )
    return min(inside, key=lambda path: abs(inside[path] - wanted))
