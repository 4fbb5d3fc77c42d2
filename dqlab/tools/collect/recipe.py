"""The recipe of a set: an environment, a mixture of behaviours, how much, and in which formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import gin

from dqlab.config.fields import check_field, check_fields
from dqlab.config.gin_files import check_parameters_read
from dqlab.config.gin_state import parameters_read
from dqlab.config.registry import configurable
from dqlab.data import data_formats
from dqlab.envs import tasks
from dqlab.envs.custom import describe_environment
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError
from dqlab.files import remove_leftovers
from dqlab.tools.collect.behaviours import Behaviour, CollectionContext, behaviour_of
from dqlab.tools.collect.checkpoints import POLICIES, RANKING_FILE, CheckpointRanking, Range
from dqlab.tools.collect.episodes import EPISODES, Amount, behaviour_slug, check_shares
from dqlab.tools.collect.ppo import BehaviourTraining
from dqlab.tracking.run_folder import claim_folder

Log = Callable[[str], None]
ENVIRONMENT_FIELDS = ("env_kwargs", "episode_limit", "reference_scores")
EXPERT_SCORE, MEDIUM_SCORE = 100.0, 100.0 / 3
"""Scores that D4RL gives an expert and a medium policy: a third of the expert's."""


@configurable("collection")
@dataclass(frozen=True)
class Collection:
    """Collect a set as D4RL does: behaviour policies from one training run of PPO, or others, each with its share.

    Attributes:
        task: whose environment and reference scores are used; or `env_id`.
        env_id: any Gymnasium environment with continuous actions, as `NAME` or `MODULE:NAME`.
        env_kwargs: arguments of that environment.
        episode_limit: steps after which its episodes are cut; 0 for its own.
        reference_scores: returns that are scored as 0 and 100 there. By default the random policy's mean return, and
            the best policy's.
        name: of the set, and of the file; environment and mixture by default.
        mixture: behaviour -> share, in the order of the file; shares sum to 1. Behaviours are `KIND` or
            `KIND:ARGUMENT` with a kind that `dqlab list behaviour` shows.
        episodes: complete episodes in all, of which the shares are taken; or `transitions`.
        transitions: rows in all, of which the shares are taken; each behaviour's last episode is cut where they are
            full. Where neither is given, a mixture of `replay` alone has all there is.
        medium_scores, expert_scores: scores between which each level's mean must lie.
        ranking_episodes: by which a checkpoint is ranked.
        n_envs: episodes stepped together: changes nothing but the speed.
        seed: of the initial states and the action noise of the episodes.
        formats: in which the set is written, names of the `data_format` registry.
        minari_id: of the set in Minari's store; `dqlab/NAME-v0` by default.
        author, licence: as the set's metadata shall say.
    """

    task: str = ""
    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    episode_limit: int = 0
    reference_scores: tuple[float, ...] = ()
    name: str = ""
    mixture: Mapping[str, float] = field(default_factory=lambda: {"medium": 0.5, "expert": 0.5})
    episodes: int = 0
    transitions: int = 0
    medium_scores: Range = (25.0, 45.0)
    expert_scores: Range = (85.0, 150.0)
    ranking_episodes: int = 10
    n_envs: int = 10
    seed: int = 0
    formats: tuple[str, ...] = ("d4rl",)
    minari_id: str = ""
    author: str = ""
    licence: str = "MIT, as dqlab"

    def __post_init__(self) -> None:
        check_fields(self)
        if bool(self.task) == bool(self.env_id):
            raise ConfigError(
                "Set Collection.task (one of those that `dqlab list task` shows), or Collection.env_id for any "
                "Gymnasium environment: one of the two."
            )
        check_shares(self.mixture)
        for name in ("episodes", "transitions", "episode_limit", "seed"):
            check_field(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("ranking_episodes", "n_envs"):
            check_field(getattr(self, name) > 0, self, name, "above 0")
        if self.episodes and self.transitions:
            raise ConfigError("Set Collection.episodes or Collection.transitions, not both.")
        for name in ("medium_scores", "expert_scores", "reference_scores"):
            self._check_range(name)
        formats = self.formats if isinstance(self.formats, (tuple, list)) else ()
        check_field(bool(formats), self, "formats", "a tuple of format names, such as ('d4rl', 'minari')")
        for name in formats:
            data_formats.get(name)
        ignored = [name for name in ENVIRONMENT_FIELDS if self.task and getattr(self, name)]
        if ignored:
            raise ConfigError(
                f"Collection.{ignored[0]} is the environment's that Collection.env_id names; the task '{self.task}' "
                "has its own. Leave it off, or set Collection.env_id in place of Collection.task."
            )

    def _check_range(self, name: str) -> None:
        values = getattr(self, name)
        fine = isinstance(values, (tuple, list)) and len(values) == 2 and values[0] < values[1]
        check_field(fine or (name == "reference_scores" and not values), self, name, "two numbers, the lower one first")

    @property
    def amount(self) -> Amount:
        return Amount(self.episodes, self.transitions)

    def resolved_task(self) -> tuple[Task, bool]:
        """The task, and whether its reference scores are known beforehand.

        Raises:
            ConfigError: there is no such task or environment, or its spaces are not dqlab's.
        """
        if self.task:
            return tasks.get(self.task), True
        task = describe_environment(self.env_id, self.env_kwargs, self.episode_limit)
        low, high = self.reference_scores or (task.min_score, task.max_score)
        return replace(task, min_score=float(low), max_score=float(high)), bool(self.reference_scores)

    def task_name(self, task: Task) -> str:
        """The set's name: given, or made of environment and mixture."""
        return self.name or "-".join([task.robot, *map(behaviour_slug, self.mixture)])

    def targets(self, task: Task, folder: Path) -> dict[str, Path]:
        """Format -> what it writes: a file in the folder, or a name in its own store."""
        name = self.task_name(task)
        suffixes = {each: data_formats.get(each).suffixes for each in self.formats}
        stored = Path(self.minari_id or f"dqlab/{name}-v0")
        return {each: folder / f"{name}{own[0]}" if own else stored for each, own in suffixes.items()}

    def run(self, folder: Path, log: Log = print, typed: Sequence[str] = ()) -> list[str]:
        """Train (or reuse what is trained), rank, roll out, write; what is there already is continued.

        Args:
            folder: of everything.
            log: is told of what is done.
            typed: bindings of the command line, which must be read.

        Returns:
            The written sets, as the source `file:` takes them.

        Raises:
            ConfigError: the configuration asks for what there is not. DataError: no checkpoint's score lies in the
            range of a level; a file is damaged, or cannot be written. RunError: the folder is in use.
        """
        from dqlab.tools.collect.writing import CollectedSet, write_set

        task, known = self.resolved_task()
        for name, path in self.targets(task, folder).items():
            data_formats.get(name)().place(path)  # what cannot be written there shows before anything is trained
        training = BehaviourTraining()
        with claim_folder(folder):
            remove_leftovers(self._temporary(task, folder))
            context = self._context(task, known, training, folder, log)
            chosen = {key: behaviour_of(key, context) for key in self.mixture}
            self._check_amount(chosen)
            if any(behaviour.records for behaviour in chosen.values()):
                context = replace(context, checkpoints=replace(context.checkpoints, record=True))
                chosen = {key: behaviour_of(key, context) for key in self.mixture}
            config = str(gin.operative_config_str())
            check_parameters_read(typed, parameters_read())
            for behaviour in sorted(chosen.values(), key=lambda each: each.trains):  # what is missing shows early
                behaviour.prepare()
            amounts = self.amount.split(self.mixture)
            rows = {key: behaviour.gather(amounts[key], key) for key, behaviour in chosen.items()}
            return write_set(CollectedSet(self, context, chosen, rows, config), folder)

    def _temporary(self, task: Task, folder: Path) -> Iterator[Path]:
        """What processes that write a collection's files may have left in its folder."""
        for name in (RANKING_FILE, self.task_name(task)):
            yield from folder.glob(f".{escape(name)}.*.tmp")
        for name in (POLICIES, EPISODES):
            yield from (folder / name).rglob(".*.tmp")

    def _check_amount(self, chosen: Mapping[str, Behaviour]) -> None:
        recorded = len(chosen) == 1 and all(behaviour.records for behaviour in chosen.values())
        if self.amount.is_everything and not recorded:
            raise ConfigError("Set Collection.episodes or Collection.transitions: how much is collected in all.")

    def _context(
        self, task: Task, known: bool, training: BehaviourTraining, folder: Path, log: Log
    ) -> CollectionContext:
        levels = {
            "medium": (self.medium_scores, max(min(MEDIUM_SCORE, self.medium_scores[1]), self.medium_scores[0])),
            "expert": (self.expert_scores, self.expert_scores[1]),
        }
        checkpoints = CheckpointRanking(
            training, task, known, levels, self.ranking_episodes, folder, self.seed, False, log
        )
        return CollectionContext(task, training.physics, folder, self.seed, self.n_envs, checkpoints, log)
