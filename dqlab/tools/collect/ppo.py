"""PPO: its training, in stages that can be continued; its checkpoints, ranked by return; behaviours made of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.config.fields import PositiveInt, check_field, check_fields
from dqlab.config.identity import is_seed
from dqlab.config.registry import configurable
from dqlab.envs import make_env
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DataError
from dqlab.tools.collect.behaviours import Behaviour, SavedPolicy, UniformRandom, behaviours, env_key, import_sb3
from dqlab.tools.collect.episodes import REMAKE_ADVICE, Amount, EpisodeRows, load_episodes, save_episodes, whole_file


@configurable("collection")
@dataclass(frozen=True)
class BehaviourTraining:
    """PPO (Schulman et al. 2017) with normalised observations and returns and a linearly decaying learning rate.

    A stage lasts from one saved policy to the next. Each begins with fresh environments and with generators seeded
    from (seed, stage), so that a stage is a function of the file before it: what is killed continues to the same
    policies. Episodes that are under way at the end of a stage are cut.

    Attributes:
        steps: environment steps in all.
        checkpoint_every: environment steps between two saved policies, rounded up to whole updates.
        n_envs, n_steps: environments stepped together, and steps of each between two updates.
        batch_size, epochs: of each PPO update.
        learning_rate: at the start; it falls linearly to 0.
        discount, gae_lambda: of returns, and of the advantages' estimate.
        seed: of networks, environments and action noise.
        physics: a name from the `physics` registry.
    """

    steps: PositiveInt = 3_000_000
    checkpoint_every: PositiveInt = 100_000
    n_envs: PositiveInt = 16
    n_steps: PositiveInt = 128
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 10
    learning_rate: float = 3e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    seed: int = 0
    physics: str = "mujoco210"

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(is_seed(self.seed), self, "seed", "at least 0 (and below 2**32)")

    @property
    def targets(self) -> list[int]:
        """Environment steps done at the end of each stage: whole updates."""
        update = self.n_envs * self.n_steps
        last, every = math.ceil(self.steps / update), math.ceil(self.checkpoint_every / update)
        return [min(count, last) * update for count in range(every, last + every, every)]

    def run(self, context: CollectionContext) -> list[Path]:
        """Train what is not trained yet; the policies' files, oldest first, with VecNormalize's (.pkl) beside each.

        A ConfigError where PPO is not installed, a DataError where a file is damaged or not writable.
        """
        task, folder, steps = context.task, context.folder / "behaviour", self.targets[-1]
        context.log(f"Behaviour policies for {task.robot}: {steps:,} steps of PPO (kept in {folder})")
        folder = folder / hashlib.sha256(f"{self} {env_key(task, self.physics)} linear".encode()).hexdigest()[:10]
        paths = [folder / f"step-{target:09d}.zip" for target in self.targets]
        for before, path, target in zip([None, *paths], paths, self.targets, strict=False):
            parts = [path, path.with_suffix(".pkl"), *([experience_of(path)] if context.record else [])]
            if not all(part.exists() for part in parts):
                reward = self._stage(task, before, path, target, context.record)
                context.log(f"PPO: {target:,} of {steps:,} steps; mean return of the last episodes {reward:.1f}")
        return paths

    def _stage(self, task: Task, before: Path | None, path: Path, target: int, record: bool) -> float:
        """From the file before (None: from the beginning) to the next one; the mean return of the last episodes."""
        import torch

        from dqlab.tools.collect.recording import EpisodeRecorder

        episodes = deque[Any](maxlen=None if record else 0)
        recorders = [EpisodeRecorder(make_env(task, self.physics), episodes.append) for _ in range(self.n_envs)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # networks so small are fastest; and results depend on the number in the last bit
        try:
            model = self._model(recorders, before, target)
            model.set_random_seed(int(np.random.SeedSequence([self.seed, target]).generate_state(1)[0] >> 1))
            model.learn(target - model.num_timesteps, reset_num_timesteps=False)
        finally:
            torch.set_num_threads(threads)
        for recorder in recorders:
            recorder.cut()
        if record:
            save_episodes(experience_of(path), list(episodes))
        for save, place in ((model.env.save, path.with_suffix(".pkl")), (model.save, path)):  # by the latter it is done
            with whole_file(place) as temporary:
                save(str(temporary))
        model.env.close()
        returns = [episode["r"] for episode in model.ep_info_buffer]
        return float(np.mean(returns)) if returns else math.nan

    def _model(self, envs: list[Any], before: Path | None, target: int) -> Any:
        """PPO as in the file before, or at its beginning; its rate falls as far as the target is of all steps."""
        sb3 = import_sb3()
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        rate = partial(_falling, self.learning_rate, target / self.targets[-1])
        venv = DummyVecEnv([partial(Monitor, env) for env in envs])
        if before:
            try:
                normalised = VecNormalize.load(str(before.with_suffix(".pkl")), venv)
                return sb3.PPO.load(before, normalised, device="cpu", custom_objects={"learning_rate": rate})
            except Exception as error:  # unpickling may fail in any way
                raise DataError(f"{before} is damaged ({error!r:.200}). {REMAKE_ADVICE}") from error
        counts = {"n_steps": self.n_steps, "batch_size": self.batch_size, "n_epochs": self.epochs}
        rates = {"learning_rate": rate, "gamma": self.discount, "gae_lambda": self.gae_lambda, "vf_coef": 0.25}
        normalised = VecNormalize(venv, gamma=self.discount)
        return sb3.PPO("MlpPolicy", normalised, **counts, **rates, seed=self.seed, device="cpu")


def _falling(rate: float, share: float, remaining: float) -> float:
    """A learning rate that falls linearly to 0, in training up to a `share` of all steps, a share of it `remaining`."""
    return rate * (1.0 - (1.0 - remaining) * share)


def experience_of(path: Path) -> Path:
    """The file of what was experienced in the stage that ended with a policy."""
    return path.parent / "experience" / f"{path.stem}.npz"


Range = tuple[float, float]


@dataclass
class CollectionContext:
    """What behaviours of one collection share: where they act, and PPO's checkpoints with what they are worth.

    Nothing is trained before it is asked for. All lies in the collection's `folder`, and `log` is told of what is done.

    Attributes:
        task, known: whose environment, and whether it has reference scores; otherwise 0 is the random policy's mean
            return, and 100 the best checkpoint's.
        training: PPO's budget, and the environment's physics.
        levels: name -> scores between which a checkpoint of that level lies, and the score that it should have.
        ranking_episodes: by which a checkpoint is ranked.
        seed: from which those of all episodes are derived.
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
        return self.training.run(self)

    @cached_property
    def mean_returns(self) -> dict[Path, float]:
        return {path: self._mean_return(path.stem, Checkpoint("", self).use(path)) for path in self.paths}

    @cached_property
    def random_return(self) -> float:
        """Mean return of uniformly random actions."""
        return self._mean_return("uniformly random", UniformRandom("", self))

    @cached_property
    def scored_task(self) -> Task:
        """The task with the reference scores by which levels are told; a DataError where random actions are best."""
        if self.known:
            return self.task
        best = max(self.mean_returns.values())
        if best <= self.random_return:
            returns = f"return {self.random_return:.1f}; best {best:.1f}"
            said = f"No policy of {self.task.robot} is better than random actions ({returns})"
            raise DataError(f"{said}. Train for longer (BehaviourTraining.steps).")
        return replace(self.task, min_score=self.random_return, max_score=best)

    def of_level(self, level: str) -> Path:
        """The checkpoint of a level; a DataError where none scores inside its range."""
        (low, high), wanted = self.levels[level]
        scores = {path: float(self.scored_task.score(value)) for path, value in self.mean_returns.items()}
        inside = {path: score for path, score in scores.items() if low <= score <= high}
        if not inside:
            near = min(scores, key=lambda path: max(low - scores[path], scores[path] - high))
            there = f"best: {max(scores.values()):.1f}; nearest: {scores[near]:.1f}, {near.stem}"
            said = f"No {level} policy: no checkpoint scores between {low:g} and {high:g} ({there})"
            train = "Train longer (BehaviourTraining.steps), save more often (checkpoint_every), try another seed"
            raise DataError(f"{said}. {train}, or widen the range (Collection.{level}_scores).")
        return min(inside, key=lambda path: abs(inside[path] - wanted))

    def _mean_return(self, name: str, policy: SavedPolicy | UniformRandom) -> float:
        """The mean return of a policy: measured once, and kept."""
        from dqlab.tracking.records import read_record

        cache, facts = self.folder / "ranking.json", f"{policy.folder} {self.ranking_episodes}"
        known = read_record(cache, dict[str, Any]) if cache.exists() else {}
        entry = known.get(name)
        if not (isinstance(entry, dict) and entry.get("of") == facts and isinstance(entry.get("return"), float)):
            with closing(policy.played("ranking", 0)) as played:
                episodes = islice(chain.from_iterable(played), self.ranking_episodes)
                value = float(np.mean([episode["rewards"].sum(dtype=np.float64) for episode in episodes]))
            known[name] = {"of": facts, "return": value}
            with whole_file(cache) as temporary:
                temporary.write_text(json.dumps(known, indent=1))
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
            self.read(path, path.with_suffix(".pkl"))
        except ConfigError as error:
            raise DataError(f"{error} {REMAKE_ADVICE}") from error
        return self

    def about(self) -> str:
        return f"PPO checkpoint {self.path.stem}, stochastic"


@behaviours.register("medium", source="D4RL (Fu et al. 2020), `medium` sets; PPO for SAC", cites=("fu2020d4rl",))
class Medium(PPOPolicy):
    """PPO's checkpoint whose score is nearest the middle of Collection.medium_scores."""

    level = "medium"


@behaviours.register("expert", source="D4RL (Fu et al. 2020), `expert` sets; PPO for SAC", cites=("fu2020d4rl",))
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
        return EpisodeRows.take(amount.spread_evenly(known, f"'{key}'"), Amount(transitions=amount.transitions))
