"""A recipe (an environment, a mixture of behaviours, how much, which formats), and the set that is made by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gin
import numpy as np

from dqlab.config.fields import NonNegativeInt, PositiveInt, check_field, check_fields
from dqlab.config.gin_files import check_parameters_read
from dqlab.config.gin_state import parameters_read
from dqlab.config.registry import configurable
from dqlab.data import data_formats
from dqlab.data.formats.base import COLLECTED, COLUMN_NAMES, ENVIRONMENT, PROVENANCE, Columns, Format, digest_of_columns
from dqlab.envs import tasks
from dqlab.envs.custom import action_bounds, describe_environment, task_statements
from dqlab.envs.tasks import BENCHMARK, BOXED, Task
from dqlab.errors import ConfigError
from dqlab.machine import package_version
from dqlab.tools.collect.behaviours import Behaviour, behaviours
from dqlab.tools.collect.episodes import TOLERANCE, Amount, EpisodeRows, behaviour_slug, join_rows, whole_file
from dqlab.tools.collect.ppo import BehaviourTraining, CollectionContext, Range
from dqlab.tracking.run_folder import claim_folder

Parts = Mapping[str, tuple[Behaviour, EpisodeRows]]  # by behaviour, in the order of the mixture
VERSIONED = ("dqlab", "gymnasium", "mujoco", "numpy", "torch", "stable-baselines3")


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
        seed: of the initial states and the action noise of the episodes.
        formats: in which the set is written, names of the `data_format` registry.
    """

    task: str = ""
    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    episode_limit: NonNegativeInt = 0
    reference_scores: tuple[float, ...] = ()
    name: str = ""
    mixture: Mapping[str, float] = field(default_factory=lambda: {"medium": 0.5, "expert": 0.5})
    episodes: NonNegativeInt = 0
    transitions: NonNegativeInt = 0
    medium_scores: Range = (25.0, 45.0)
    expert_scores: Range = (85.0, 150.0)
    ranking_episodes: PositiveInt = 10
    seed: NonNegativeInt = 0
    formats: tuple[str, ...] = ("d4rl",)

    def __post_init__(self) -> None:
        check_fields(self)
        if bool(self.task) == bool(self.env_id):
            ways = "Collection.task, of those that `dqlab list task` shows, or Collection.env_id, of Gymnasium"
            raise ConfigError(f"Set {ways}: one of the two.")
        values = list(self.mixture.values()) if isinstance(self.mixture, Mapping) else []
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        check_field(bool(values) and numbers, self, "mixture", "a dictionary behaviour -> share")
        wanted = f"of positive shares that sum to 1 (these sum to {sum(values):g})"
        check_field(min(values) > 0 and abs(sum(values) - 1) <= TOLERANCE, self, "mixture", wanted)
        if self.episodes and self.transitions:
            raise ConfigError("Set Collection.episodes or Collection.transitions, not both.")
        for name in ("medium_scores", "expert_scores", *(["reference_scores"] if self.reference_scores else [])):
            ends = getattr(self, name)
            fine = isinstance(ends, (tuple, list)) and len(ends) == 2 and ends[0] < ends[1]
            check_field(fine, self, name, "two numbers, the lower one first")
        wanted = "a tuple of names of formats that are written, such as ('d4rl', 'npz')"
        written = isinstance(self.formats, (tuple, list)) and [data_formats.get(name).write for name in self.formats]
        check_field(bool(written) and Format.write not in written, self, "formats", wanted)
        own = ("env_kwargs", "episode_limit", "reference_scores")
        if ignored := [name for name in own if self.task and getattr(self, name)]:
            said = f"Collection.{ignored[0]} is the environment's that Collection.env_id names"
            raise ConfigError(f"{said}; the task '{self.task}' has its own. Leave off one or the other.")

    def resolved_task(self) -> tuple[Task, bool]:
        """The task, and whether its reference scores are known beforehand; a ConfigError where there is none."""
        if self.task:
            return tasks.get(self.task), True
        task = describe_environment(self.env_id, self.env_kwargs, self.episode_limit)
        low, high = self.reference_scores or (task.min_score, task.max_score)
        return replace(task, min_score=float(low), max_score=float(high)), bool(self.reference_scores)

    def task_name(self, task: Task) -> str:
        """The set's name: given, or made of environment and mixture."""
        return self.name or "-".join([task.robot, *map(behaviour_slug, self.mixture)])

    def targets(self, task: Task, folder: Path) -> list[tuple[Format, Path]]:
        """Formats with the paths of what they write; a DataError where no dataset of one can have the set's name."""
        formats = [data_formats.get(name)() for name in dict.fromkeys(self.formats)]
        targets = [(form, folder / f"{self.task_name(task)}{''.join(form.suffixes[:1])}") for form in formats]
        for form, path in targets:
            form.place(path)
        return targets

    def run(self, folder: Path, log: Callable[[str], None] = print, typed: Sequence[str] = ()) -> list[str]:
        """Train (or reuse what is trained), rank, roll out, write, or continue that in its folder; the sets' files.

        Bindings that are `typed` on the command line must be read. ConfigError: the configuration asks for what there
        is not. DataError: no checkpoint is of a level; a file is damaged, or not writable. RunError: the folder is in
        use.
        """
        task, known = self.resolved_task()
        medium, expert = self.medium_scores, self.expert_scores
        third = float(np.clip(100.0 / 3, *medium))  # D4RL's medium policies have a third of the expert's score
        levels = {"medium": (medium, third), "expert": (expert, expert[1])}
        training, ranked = BehaviourTraining(), self.ranking_episodes
        context = CollectionContext(task, known, training, levels, ranked, folder, self.seed, log)
        with claim_folder(folder):
            named = {key: key.partition(":") for key in self.mixture}
            chosen = {key: behaviours.get(kind)(argument, context) for key, (kind, _, argument) in named.items()}
            recorded = [behaviour.records for behaviour in chosen.values()]
            if not (self.episodes or self.transitions) and recorded != [True]:
                raise ConfigError("Set Collection.episodes or Collection.transitions: how much is collected in all.")
            self.targets(task, folder)
            task.arguments()  # which gin may have chosen
            context.record = any(recorded)
            config = str(gin.operative_config_str())
            check_parameters_read(typed, parameters_read())
            for behaviour in sorted(chosen.values(), key=lambda each: each.trains):  # what is missing shows early
                behaviour.prepare()
            without = [key for key, behaviour in chosen.items() if not behaviour.rewards]
            if without and set(self.formats) != {BENCHMARK}:
                raise ConfigError(f"'{without[0]}' has no rewards of its own: set Collection.formats=('{BENCHMARK}',).")
            amounts = Amount(self.episodes, self.transitions).split(self.mixture)
            parts = {key: (behaviour, behaviour.gather(amounts[key], key)) for key, behaviour in chosen.items()}
            return self._write_files(context, parts, config)

    def _references(self, context: CollectionContext, parts: Parts) -> tuple[Task, str]:
        """The task with its reference scores, and where these are from."""
        if context.known:
            return context.task, "the task's" if self.task else "as configured"
        if any(behaviour.trains for behaviour, _ in parts.values()):
            origin = f"measured in {self.ranking_episodes} episodes: random actions, and PPO's best checkpoint"
            return context.scored_task, origin
        low, returns, what = context.random_return, [given.returns for _, given in parts.values()], "policy"
        best = max(float(each.mean()) for each in returns)
        if not best > low:
            best, what = max(float(each.max()) for each in returns), "episode"
        scored = replace(context.task, min_score=low, max_score=best if best > low else low + 1.0)
        return scored, f"measured: random actions, and the best {what} here"

    def _write_files(self, context: CollectionContext, parts: Parts, config: str) -> list[str]:
        """Write every format that is asked for, and NAME.gin, which trains Diffusion-QL on it; the sets' files."""
        from dqlab.tools.scaffold import diffusion_ql_gin, module_statements

        folder, (task, origin) = context.folder, self._references(context, parts)
        policies = list[dict[str, Any]]()
        for key, (behaviour, played) in parts.items():
            returns, about = played.returns, {"name": key, "about": behaviour.about(), "share": self.mixture[key]}
            about |= {"episodes": len(returns), "transitions": len(played.rows["rewards"])}
            about |= {f"return_{name}": float(getattr(returns, name)()) for name in ("mean", "std", "min", "max")}
            policies.append({**about, "score": float(task.score(returns).mean())})
        known: Mapping[str, Any] = task.env_kwargs if task.env_id == BOXED else vars(task)
        given = f" {dict(known['env_kwargs'])}" if known["env_kwargs"] else ""
        physics = context.physics if task.body else "its own"
        low, high = action_bounds(task)
        metadata = {
            PROVENANCE: f"{COLLECTED}; not D4RL. See `dqlab collect --help`.",
            ENVIRONMENT: f"{known['env_id']}{given}, physics {physics}, limit {task.episode_limit} steps",
            "action_bounds": json.dumps({"stored": [-1.0, 1.0], "low": low, "high": high}),
            "reference_scores": f"{task.min_score!r} and {task.max_score!r} ({origin})",
            "policies": json.dumps(policies),
            "versions": ", ".join(f"{name} {package_version(name)}" for name in VERSIONED),
            "config": config,
        }
        first, *others = (set(given.rows) for _, given in parts.values())
        if odd := sorted(set[str]().union(*(first ^ names for names in others))):
            raise ConfigError(f"Only some behaviours of the mixture record {', '.join(odd)}: collect them apart.")
        joined = join_rows([given.rows for _, given in parts.values()])
        arrays: dict[str, Any] = {name: joined.pop(name) for name in COLUMN_NAMES if name in joined}
        columns = Columns(**arrays, extras=joined, where="the collection")
        columns = replace(columns, metadata={**metadata, "rows_sha256": digest_of_columns(columns)})
        targets = self.targets(task, folder.resolve())
        for form, path in targets:
            form.write(path, columns)
        name, (form, path) = self.task_name(task), targets[0]
        file = folder / f"{name}.gin"
        made = [*module_statements(self.env_id, file), *task_statements(task, origin)]
        statements = [f"Experiment.task = {self.task!r}"] if self.task else made
        text = diffusion_ql_gin(f"{name}, collected by dqlab.", file, statements, form.source(path))
        with whole_file(file) as temporary:
            temporary.write_text(text)
        return [str(form.place(path)) for form, path in targets]
