"""PPO's policies from unskilled to skilled, ranked by return."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.collection.behaviours import Acting, Stage, UniformRandom
from dqlab.collection.shards import save_text
from dqlab.collection.training import BehaviourTraining
from dqlab.envs.tasks import Task
from dqlab.errors import DataError

Range = tuple[float, float]
RANKING = "ranking"
POLICIES, RANKING_FILE = "behaviour", "ranking.json"
RANDOM = "uniformly random"


@dataclass(frozen=True)
class Ladder:
    """PPO's checkpoints and what they are worth; nothing is trained before it is asked for.

    Attributes:
        training: the budget.
        task: whose environment; its reference scores count where they are `known`.
        known: whether the task has reference scores; otherwise 0 is the random policy's mean return, and 100 the best
            checkpoint's.
        levels: name -> scores between which a checkpoint of that level lies, and the score that it should have.
        episodes: by which a checkpoint is ranked.
        folder: of the collection; seed: of the ranking's episodes.
        record: whether the experience of training is kept.
        say: tells the user.
    """

    training: BehaviourTraining
    task: Task
    known: bool
    levels: dict[str, tuple[Range, float]]
    episodes: int
    folder: Path
    seed: int
    record: bool
    say: Callable[[str], None]
    returns: dict[str, float] = field(default_factory=dict)

    @cached_property
    def checkpoints(self) -> list[Path]:
        """The policies' files, oldest first."""
        folder = self.folder / POLICIES
        steps = self.training.targets[-1]
        self.say(f"Behaviour policies for {self.task.robot}: {steps:,} steps of PPO (kept in {folder})")
        return self.training.run(self.task, folder, self.record, self.say)

    @cached_property
    def ranking(self) -> dict[Path, float]:
        """Mean return of every checkpoint."""
        from dqlab.collection.levels import Fixed

        return {path: self._mean_return(path.stem, Fixed(path, self._stage)) for path in self.checkpoints}

    @cached_property
    def random_return(self) -> float:
        """Mean return of uniformly random actions."""
        return self._mean_return(RANDOM, UniformRandom("", self._stage))

    @cached_property
    def scored(self) -> Task:
        """The task with the reference scores by which levels are told.

        Raises:
            DataError: no checkpoint is better than random actions.
        """
        if self.known:
            return self.task
        best = max(self.ranking.values())
        if best <= self.random_return:
            raise DataError(
                f"No policy of {self.task.robot} is better than random actions (return {self.random_return:.1f}; best "
                f"{best:.1f}). Train for longer (BehaviourTraining.steps)."
            )
        return replace(self.task, min_score=self.random_return, max_score=best)

    def pick(self, level: str) -> Path:
        """The checkpoint of a level.

        Raises:
            DataError: none scores inside its range.
        """
        (low, high), wanted = self.levels[level]
        scores = {path: float(self.scored.score(value)) for path, value in self.ranking.items()}
        inside = {path: score for path, score in scores.items() if low <= score <= high}
        if not inside:
            near = min(scores, key=lambda path: max(low - scores[path], scores[path] - high))
            raise DataError(
                f"No {level} policy: no checkpoint scores between {low:g} and {high:g} (best: "
                f"{max(scores.values()):.1f}; nearest: {scores[near]:.1f}, {near.stem}). Train longer "
                "(BehaviourTraining.steps), save more often (checkpoint_every), another seed, or widen the range "
                f"(Collection.{level}_scores)."
            )
        return min(inside, key=lambda path: abs(inside[path] - wanted))

    @property
    def _stage(self) -> Stage:
        return Stage(self.task, self.training.physics, self.folder, self.seed, self.episodes, self, self.say)

    def _mean_return(self, name: str, policy: Acting) -> float:
        """Measured once, and kept."""
        from dqlab.collection.rolling import run_group
        from dqlab.records import read

        cache, facts = self.folder / RANKING_FILE, f"{policy.folder} {self.episodes}"
        known = read(cache, dict[str, Any]) if cache.exists() else {}
        if not _is_measured(known.get(name), facts):
            episodes = run_group(policy, self._stage, RANKING, self.episodes)
            value = float(np.mean([episode["rewards"].sum(dtype=np.float64) for episode in episodes]))
            known[name] = {"of": facts, "return": value}
            save_text(cache, json.dumps(known, indent=1))
            score = f", score {self.task.score(value):.1f}" if self.known else ""
            self.say(f"{name}: return {value:.1f}{score}")
        return float(known[name]["return"])


def _is_measured(entry: Any, facts: str) -> bool:
    """Whether an entry of the ranking's file holds the return of what the facts say."""
    return isinstance(entry, dict) and entry.get("of") == facts and isinstance(entry.get("return"), float)
