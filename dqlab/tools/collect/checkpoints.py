"""PPO's checkpoints from unskilled to skilled, ranked by return, and the behaviours that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError
from dqlab.tools.collect.behaviours import (
    Behaviour,
    PolicyBehaviour,
    SavedPolicy,
    UniformRandom,
    behaviours,
)
from dqlab.tools.collect.episodes import REMAKE_ADVICE, Amount, EpisodeRows, load_episodes, save_text
from dqlab.tools.collect.ppo import BehaviourTraining, experience_of, statistics_of

Range = tuple[float, float]


@dataclass
class CollectionContext:
    """What behaviours of one collection share: where they act, and PPO's checkpoints with what they are worth.

    Nothing is trained before it is asked for.

    Attributes:
        task: whose environment; its reference scores count where they are `known`.
        known: whether the task has reference scores; otherwise 0 is the random policy's mean return, and 100 the best
            checkpoint's.
        training: PPO's budget, and the environment's physics.
        levels: name -> scores between which a checkpoint of that level lies, and the score that it should have.
        ranking_episodes: by which a checkpoint is ranked.
        folder: of the collection.
        seed: from which those of all episodes are derived.
        log: is told of what is done.
        record: whether the experience of training is kept; set before anything is trained.
    """

    task: Task
    known: bool
    training: BehaviourTraining
    levels: dict[str, tuple[Range, float]]
    ranking_episodes: int
    folder: Path
    seed: int
    log: Callable[[str], None]
    record: bool = False

    @property
    def physics(self) -> str:
        return self.training.physics

    @cached_property
    def paths(self) -> list[Path]:
        """The policies' files, oldest first."""
        folder = self.folder / "behaviour"
        steps = self.training.targets[-1]
        self.log(f"Behaviour policies for {self.task.robot}: {steps:,} steps of PPO (kept in {folder})")
        return self.training.run(self.task, folder, self.record, self.log)

    @cached_property
    def mean_returns(self) -> dict[Path, float]:
        return {path: self._mean_return(path.stem, Checkpoint("", self).use(path)) for path in self.paths}

    @cached_property
    def random_return(self) -> float:
        """Mean return of uniformly random actions."""
        return self._mean_return("uniformly random", UniformRandom("", self))

    @cached_property
    def scored_task(self) -> Task:
        """The task with the reference scores by which levels are told.

        Raises:
            DataError: no checkpoint is better than random actions.
        """
        if self.known:
            return self.task
        best = max(self.mean_returns.values())
        if best <= self.random_return:
            raise DataError(
                f"No policy of {self.task.robot} is better than random actions (return {self.random_return:.1f}; best "
                f"{best:.1f}). Train for longer (BehaviourTraining.steps)."
            )
        return replace(self.task, min_score=self.random_return, max_score=best)

    def of_level(self, level: str) -> Path:
        """The checkpoint of a level.

        Raises:
            DataError: none scores inside its range.
        """
        (low, high), wanted = self.levels[level]
        scores = {path: float(self.scored_task.score(value)) for path, value in self.mean_returns.items()}
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

    def _mean_return(self, name: str, policy: PolicyBehaviour) -> float:
        """The mean return of a policy: measured once, and kept."""
        from dqlab.tools.collect.recording import mean_return
        from dqlab.tracking.records import read_record

        cache, facts = self.folder / "ranking.json", f"{policy.folder} {self.ranking_episodes}"
        known = read_record(cache, dict[str, Any]) if cache.exists() else {}
        entry = known.get(name)
        measured = isinstance(entry, dict) and entry.get("of") == facts and isinstance(entry.get("return"), float)
        if not measured:
            value = mean_return(policy, "ranking", self.ranking_episodes)
            known[name] = {"of": facts, "return": value}
            save_text(cache, json.dumps(known, indent=1))
            score = f", score {self.task.score(value):.1f}" if self.known else ""
            self.log(f"{name}: return {value:.1f}{score}")
        return float(known[name]["return"])


class PPOPolicy(SavedPolicy):
    """A checkpoint of some level, acting with its own noise."""

    trains = True
    level = ""

    def prepare(self) -> None:
        self.use(self.context.of_level(self.level))

    def use(self, path: Path) -> PPOPolicy:
        """Act by this checkpoint; returns itself."""
        try:
            self.read(path, statistics_of(path))
        except ConfigError as error:
            raise DataError(f"{error} {REMAKE_ADVICE}") from error
        return self

    def about(self) -> str:
        return f"PPO checkpoint {self.path.stem}, stochastic"


@behaviours.register(
    "medium", source="D4RL (Fu et al. 2020), `medium` sets; PPO in place of SAC", cites=("fu2020d4rl",)
)
class Medium(PPOPolicy):
    """PPO's checkpoint whose score is nearest the middle of Collection.medium_scores."""

    level = "medium"


@behaviours.register(
    "expert", source="D4RL (Fu et al. 2020), `expert` sets; PPO in place of SAC", cites=("fu2020d4rl",)
)
class Expert(PPOPolicy):
    """PPO's best checkpoint within Collection.expert_scores."""

    level = "expert"


@behaviours.register("ppo", source="Schulman et al. 2017 (PPO); stable-baselines3", cites=("schulman2017proximal",))
class Checkpoint(PPOPolicy):
    """PPO's checkpoint after so many steps, `ppo:STEPS`: the nearest one, the last one without an argument."""

    def __init__(self, argument: str, context: CollectionContext) -> None:
        super().__init__(argument, context)
        if not re.fullmatch(r"[\d_]*", argument):
            raise ConfigError(f"'ppo:{argument}' names no number of steps. Write ppo:500000, say.")

    def prepare(self) -> None:
        targets = self.context.training.targets
        wanted = int(self.argument.replace("_", "")) if self.argument else targets[-1]
        self.use(min(zip(self.context.paths, targets, strict=True), key=lambda pair: abs(pair[1] - wanted))[0])


@behaviours.register(
    "replay", source="D4RL (Fu et al. 2020), `medium-replay` and `full-replay` sets; PPO for SAC", cites=("fu2020d4rl",)
)
class Replay(Behaviour):
    """All that PPO experienced: `replay` until medium, `replay:expert`, `replay:full` for all of training."""

    trains, records = True, True

    def __init__(self, argument: str, context: CollectionContext) -> None:
        super().__init__(argument, context)
        self._until, known = argument or "medium", [*context.levels, "full"]
        if self._until not in known:
            raise ConfigError(f"'replay:{self._until}' is no level. Known: {', '.join(sorted(known))}.")

    def prepare(self) -> None:
        context = self.context
        self._last = context.of_level(self._until) if self._until in context.levels else context.paths[-1]

    def about(self) -> str:
        return f"all that PPO experienced until its checkpoint {self._last.stem}"

    def gather(self, amount: Amount, key: str) -> EpisodeRows:
        """Episodes spread evenly over training, in its order."""
        paths = self.context.paths
        known = [each for path in paths[: paths.index(self._last) + 1] for each in load_episodes(experience_of(path))]
        chosen = amount.spread_evenly([len(each["rewards"]) for each in known], f"'{key}'")
        episodes = [known[number] for number in chosen]
        return EpisodeRows.take(episodes, Amount(transitions=amount.transitions))
