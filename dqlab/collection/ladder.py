"""PPO's policies from unskilled to skilled, ranked by return; and the behaviours that stand on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dqlab.collection.amounts import Amount
from dqlab.collection.behaviours import Act, Acting, Behaviour, Stage, UniformRandom, behaviours
from dqlab.collection.saved import GaussianMLP
from dqlab.collection.shards import Piece, lengths_of, pieces_of
from dqlab.collection.training import BehaviourTraining, experience_of
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError
from dqlab.files import sha256_of, write_text

Range = tuple[float, float]
RANKING = "ranking"
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
        folder = self.folder / "behaviour"
        steps = self.training.targets[-1]
        self.say(f"Behaviour policies for {self.task.robot}: {steps:,} steps of PPO (kept in {folder})")
        return self.training.run(self.task, folder, self.record, self.say)

    @cached_property
    def ranking(self) -> dict[Path, float]:
        """Mean return of every checkpoint."""
        return {path: self._mean_return(path.stem, _Fixed(path, self._stage)) for path in self.checkpoints}

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

        cache, facts = self.folder / "ranking.json", f"{policy.folder} {self.episodes}"
        known = json.loads(cache.read_text()) if cache.exists() else {}
        if known.get(name, {}).get("of") != facts:
            episodes = run_group(policy, self._stage, RANKING, self.episodes)
            value = float(np.mean([episode["rewards"].sum(dtype=np.float64) for episode in episodes]))
            known[name] = {"of": facts, "return": value}
            write_text(cache, json.dumps(known, indent=1))
            score = f", score {self.task.score(value):.1f}" if self.known else ""
            self.say(f"{name}: return {value:.1f}{score}")
        return float(known[name]["return"])


class PPOPolicy(Acting):
    """A checkpoint, acting with its own noise."""

    trains = True
    path: Path

    def prepare(self) -> None:
        """Load it."""
        self.path = self.choose()
        self._policy = GaussianMLP(self.path)

    def choose(self) -> Path:
        """Which checkpoint."""
        raise NotImplementedError

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"PPO checkpoint {self.path.stem}, stochastic"

    def identity(self) -> str:
        """The file's digest."""
        return sha256_of(self.path)

    def begin(self, seeds: Sequence[int]) -> Act:
        """A generator for each episode's noise."""
        policy = self._policy
        generators = [np.random.default_rng(seed) for seed in seeds]

        def act(observations: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            noise = np.stack([generator.standard_normal(len(policy.std)) for generator in generators])
            return policy.mean(observations) + policy.std * noise

        return act


class _Fixed(PPOPolicy):
    """A checkpoint that is being ranked."""

    def __init__(self, path: Path, stage: Stage) -> None:
        super().__init__("", stage)
        self._chosen = path
        self.prepare()

    def choose(self) -> Path:
        return self._chosen


@behaviours.register("medium", source="D4RL (Fu et al. 2020), `medium` sets; PPO in place of SAC")
class Medium(PPOPolicy):
    """PPO's checkpoint whose score is nearest the middle of Collection.medium_scores."""

    def choose(self) -> Path:
        """By score."""
        return self.stage.ladder.pick("medium")


@behaviours.register("expert", source="D4RL (Fu et al. 2020), `expert` sets; PPO in place of SAC")
class Expert(PPOPolicy):
    """PPO's best checkpoint within Collection.expert_scores."""

    def choose(self) -> Path:
        """By score."""
        return self.stage.ladder.pick("expert")


@behaviours.register("ppo", source="Schulman et al. 2017 (PPO); stable-baselines3")
class Checkpoint(PPOPolicy):
    """PPO's checkpoint after so many steps, `ppo:STEPS`: the nearest one, the last one without an argument."""

    def choose(self) -> Path:
        """By steps."""
        paths, targets = self.stage.ladder.checkpoints, self.stage.ladder.training.targets
        try:
            wanted = int(self.argument.replace("_", "")) if self.argument else targets[-1]
        except ValueError as error:
            raise ConfigError(f"'ppo:{self.argument}' names no number of steps. Write ppo:500000, say.") from error
        return min(zip(paths, targets, strict=True), key=lambda pair: abs(pair[1] - wanted))[0]


@behaviours.register("replay", source="D4RL (Fu et al. 2020), `medium-replay` and `full-replay` sets; PPO for SAC")
class Replay(Behaviour):
    """All that PPO experienced: `replay` until medium, `replay:expert`, `replay:full` for all of training."""

    trains = True
    records = True

    def prepare(self) -> None:
        """See until when."""
        until = self.argument or "medium"
        ladder = self.stage.ladder
        last = {"full": lambda: ladder.checkpoints[-1]} | {
            level: lambda level=level: ladder.pick(level) for level in ladder.levels
        }
        if until not in last:
            raise ConfigError(f"'replay:{until}' is no level. Known: {', '.join(sorted(last))}.")
        self._last = last[until]()

    def about(self) -> str:
        """As in `Behaviour`."""
        return f"all that PPO experienced until its checkpoint {self._last.stem}"

    def gather(self, amount: Amount, key: str) -> tuple[Piece, ...]:
        """Episodes spread evenly over training, in its order."""
        paths = [experience_of(path) for path in self.stage.ladder.checkpoints]
        paths = paths[: paths.index(experience_of(self._last)) + 1]
        lengths = [lengths_of(path) for path in paths]
        every = [int(length) for each in lengths for length in each]
        chosen = np.array(amount.thinned(every, f"'{key}'"))
        limit = amount.transitions or sum(every)
        pieces, first = [], 0
        for path, each in zip(paths, lengths, strict=True):
            own = chosen[(chosen >= first) & (chosen < first + len(each))] - first
            piece = pieces_of(path, own.tolist(), limit)
            limit, first = limit - len(piece.rows), first + len(each)
            pieces += [piece] if len(piece.rows) else []
        return tuple(pieces)
