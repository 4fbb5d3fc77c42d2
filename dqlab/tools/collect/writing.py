"""Episodes become a set: columns, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data import data_formats
from dqlab.data.formats.base import COLUMN_NAMES, Columns, digest_of_columns
from dqlab.data.sources import COLLECTED, PROVENANCE
from dqlab.envs import make_env
from dqlab.envs.custom import BOXED, action_bounds, task_statements
from dqlab.envs.tasks import Task
from dqlab.machine import package_version
from dqlab.tools.collect.behaviours import Behaviour, CollectionContext
from dqlab.tools.collect.episodes import EpisodeRows, StackedColumn, behaviour_slug, load_arrays, save_text
from dqlab.tools.new_task import module_statements

if TYPE_CHECKING:
    from dqlab.tools.collect.recipe import Collection
VERSIONED = ("dqlab", "gymnasium", "mujoco", "numpy", "torch", "stable-baselines3")


@dataclass(frozen=True)
class CollectedSet:
    """What has been collected: pieces of episode files by behaviour, and the configuration that asked for it."""

    recipe: Collection
    context: CollectionContext
    behaviours: Mapping[str, Behaviour]
    rows: Mapping[str, tuple[EpisodeRows, ...]]
    config: str

    @cached_property
    def columns(self) -> Columns:
        """All rows, in the order of the mixture."""
        pieces = tuple(piece for each in self.rows.values() for piece in each)
        others = [name for name in load_arrays(pieces[0].path) if name.startswith("infos/")]
        arrays = {name: StackedColumn(name, pieces) for name in (*COLUMN_NAMES, *others)}
        extras = {name: arrays.pop(name) for name in others}
        return Columns(**arrays, extras=extras, metadata=self.metadata, where="the collection")

    @cached_property
    def returns(self) -> dict[str, NDArray[np.float64]]:
        """Undiscounted returns of each behaviour's episodes."""
        return {key: _returns(pieces) for key, pieces in self.rows.items()}

    @cached_property
    def reference(self) -> tuple[Task, str]:
        """The task with its reference scores, and where these are from."""
        checkpoints, task = self.context.checkpoints, self.context.task
        if checkpoints.known:
            return task, "the task's" if self.recipe.task else "as configured"
        if self._trains:
            origin = f"measured in {checkpoints.episodes} episodes: random actions, and PPO's best checkpoint"
            return checkpoints.scored_task, origin
        low, best = checkpoints.random_return, max(float(returns.mean()) for returns in self.returns.values())
        if best > low:
            return replace(task, min_score=low, max_score=best), "measured: random actions, and the best policy here"
        highest = max(float(returns.max()) for returns in self.returns.values())
        high = highest if highest > low else low + 1.0
        return replace(task, min_score=low, max_score=high), "measured: random actions, and the best episode here"

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the set says of itself."""
        recipe, context = self.recipe, self.context
        task, origin = self.reference
        policies = [self._policy(key, task) for key in self.behaviours]
        facts = {
            "name": recipe.task_name(task),
            PROVENANCE: f"{COLLECTED}; not D4RL. See `dqlab collect --help`.",
            "description": f"Collected by dqlab on {task.robot}: " + "; ".join(known["text"] for known in policies),
            "environment": _environment(task, context.physics),
            "env_spec": environment_spec(task, context.physics),
            "task": json.dumps(task_facts(recipe.task, task)),
            "action_bounds": json.dumps(_bounds(task)),
            "reference_scores": f"{task.min_score!r} and {task.max_score!r} ({origin})",
            "behaviour": str(context.checkpoints.training) if self._trains else "none",
            "policies": json.dumps(policies),
            "algorithm_name": ", ".join(behaviour.about() for behaviour in self.behaviours.values()),
            "seed": str(recipe.seed),
            "versions": ", ".join(f"{name} {package_version(name)}" for name in VERSIONED),
            "config": self.config,
            "licence": recipe.licence,
            **({"author": recipe.author} if recipe.author else {}),
        }
        return facts | {f"{behaviour_slug(known['name'])}_policy": known["text"] for known in policies}

    @property
    def _trains(self) -> bool:
        """Whether PPO was trained for it."""
        return any(behaviour.trains for behaviour in self.behaviours.values())

    def _policy(self, key: str, task: Task) -> dict[str, Any]:
        """What a behaviour gave to the set."""
        returns, rows = self.returns[key], sum(len(piece.rows) for piece in self.rows[key])
        scores, about = task.score(returns), self.behaviours[key].about()
        text = (
            f"{about}, {len(returns)} episodes, {rows} transitions, "
            f"return {returns.mean():.0f} +- {returns.std():.0f}, score {scores.mean():.1f}"
        )
        return {
            "name": key,
            "about": about,
            "share": self.recipe.mixture[key],
            "episodes": len(returns),
            "transitions": rows,
            **{f"return_{name}": float(getattr(returns, name)()) for name in ("mean", "std", "min", "max")},
            "score": float(scores.mean()),
            "text": text,
        }


def environment_spec(task: Task, physics: str) -> str:
    """The environment as Gymnasium's JSON: it can be made again, with actions in [-1, 1], but without the physics."""
    env = make_env(task, physics)
    env.close()
    return str(env.spec.to_json())


def _environment(task: Task, physics: str) -> str:
    plain = {"env_id": task.env_id, "env_kwargs": task.env_kwargs}
    known: Mapping[str, Any] = task.env_kwargs if task.env_id == BOXED else plain
    given = f" {dict(known['env_kwargs'])}" if known["env_kwargs"] else ""
    return f"{known['env_id']}{given}, physics {physics if task.body else 'its own'}, limit {task.episode_limit} steps"


def task_facts(name: str, task: Task) -> dict[str, Any]:
    """What makes the task again: its name among dqlab's, or the parameters of `gymnasium_task`."""
    if name:
        return {"task": name}
    scores = {"min_score": task.min_score, "max_score": task.max_score}
    sizes = {"episode_limit": task.episode_limit, "state_dim": task.state_dim, "action_dim": task.action_dim}
    return {**task.env_kwargs, **scores, **sizes}


def _bounds(task: Task) -> dict[str, Any]:
    """What the stored actions -1 and 1 stand for in the environment."""
    low, high = action_bounds(task)
    return {"stored": [-1.0, 1.0], "low": low, "high": high}


def _returns(pieces: tuple[EpisodeRows, ...]) -> NDArray[np.float64]:
    """Returns of the episodes that are whole; that of the one that is cut, where there is no other."""
    rewards, terminals, timeouts = (StackedColumn(name, pieces) for name in ("rewards", "terminals", "timeouts"))
    rows = slice(0, rewards.shape[0])
    ends = np.flatnonzero(terminals[rows] | timeouts[rows])
    totals = np.diff(np.cumsum(rewards[rows], dtype=np.float64)[ends], prepend=0.0)
    return totals[:-1] if pieces[-1].cut and len(totals) > 1 else totals


def write_set(collected: CollectedSet, folder: Path) -> list[str]:
    """Write the set in every format that is asked for, and `NAME.gin`, which trains on it.

    Returns:
        Where each is, as the source `file:` takes it.

    Raises:
        DataError: a set cannot be written.
    """
    recipe, columns = collected.recipe, collected.columns
    name = recipe.task_name(collected.reference[0])
    columns = replace(columns, metadata={**columns.metadata, "rows_sha256": digest_of_columns(columns, COLUMN_NAMES)})
    named = []
    for each, place in recipe.targets(collected.reference[0], folder).items():
        data_formats.get(each)().write(place, columns)
        named.append(str(place.resolve()) if data_formats.get(each).suffixes else f"{each}:{place}")
    file = folder / f"{name}.gin"
    save_text(file, training_gin(collected, named[0], file))
    return named


def training_gin(collected: CollectedSet, place: str, file: Path) -> str:
    """The text of a gin file that trains Diffusion-QL on the set."""
    recipe, (task, origin) = collected.recipe, collected.reference
    lines = [
        f"# Diffusion-QL on {recipe.task_name(task)}, collected by dqlab.",
        f"#     dqlab train --gin {recipe.task_name(task)}.gin",
        "include 'gin/base/diffusion_ql.gin'",
        "",
    ]
    if recipe.task:
        lines += [f"Experiment.task = {recipe.task!r}"]
    else:
        lines += [*module_statements(recipe.env_id, file), *task_statements(task, origin)]
    return "\n".join([*lines, f"load_dataset.sources = ({f'file:{place}'!r},)"]) + "\n"
