"""Tasks that nobody has defined yet: any Gymnasium environment, with reference scores of the user's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dqlab.config.fields import check_counts
from dqlab.config.registry import configurable
from dqlab.envs.backend import make_env
from dqlab.envs.tasks import BOXED, UNLIMITED, Task, tasks
from dqlab.errors import ConfigError

SOURCE = "gymnasium_task"


def describe_environment(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, episode_limit: int = 0, sizes: tuple[int, int] = (0, 0)
) -> Task:
    """The facts of an environment, measured on it unless all are given; its scores are its returns.

    Args:
        env_id, env_kwargs: as `gymnasium.make` takes them.
        episode_limit: steps after which an episode is cut; 0 for the environment's own.
        sizes: widths of observation and action; measured where one is 0, or the limit is.

    A ConfigError where there is no such environment, its episodes have no limit, or its spaces are not dqlab's.
    """
    name = re.sub(r"[^\w.+~-]+", "-", env_id)
    made = {"env_id": env_id, "env_kwargs": dict(env_kwargs or {})}
    task = Task(name, name, BOXED, 0.0, 100.0, episode_limit or UNLIMITED, "", *sizes, env_kwargs=made)
    if episode_limit and all(sizes):
        return task
    env = make_env(replace(task, state_dim=0, action_dim=0))
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    import gymnasium

    limit = episode_limit or gymnasium.spec(env_id.rpartition(":")[2]).max_episode_steps
    if not limit:
        raise ConfigError(f"{env_id} does not say when its episodes are cut: set episode_limit, in steps.")
    return replace(task, episode_limit=limit, state_dim=sizes[0], action_dim=sizes[1])


def action_bounds(task: Task) -> tuple[list[float], list[float]]:
    """What -1 and 1 stand for in the task's own environment, (A,) each."""
    if task.env_id != BOXED:
        return [-1.0] * task.action_dim, [1.0] * task.action_dim
    from dqlab.envs.boxed import make_unlimited

    env = make_unlimited(**task.env_kwargs)
    env.close()
    return env.action_space.low.tolist(), env.action_space.high.tolist()


@configurable("envs")
def gymnasium_task(
    env_id: str = "",
    min_score: float | None = None,
    max_score: float | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int = 0,
    state_dim: int = 0,
    action_dim: int = 0,
    name: str = "",
) -> str:
    """Make a task of any Gymnasium environment: `Experiment.task = @gymnasium_task()`; returns its name.

    Args:
        env_id: such as `Pendulum-v1`, or `MODULE:NAME` where importing a module registers it.
        min_score, max_score: returns that are scored as 0 (a random policy's) and 100 (a good one's); where neither is
            given, returns are shown, and no scores.
        env_kwargs: arguments of the environment.
        episode_limit: steps after which an episode is cut; 0 for the environment's own.
        state_dim, action_dim: widths of observation and action; 0 looks at the environment.
        name: of the task; the environment's by default.

    A ConfigError where the environment cannot be used, the scores do not differ, or the name is another task's.
    """
    check_counts("gymnasium_task", 0, episode_limit=episode_limit, state_dim=state_dim, action_dim=action_dim)
    if not env_id:
        raise ConfigError("gymnasium_task wants env_id, such as 'Pendulum-v1', or MODULE:NAME.")
    references: Any = (0.0, 100.0) if min_score is None and max_score is None else (min_score, max_score)
    for parameter, value in zip(("min_score", "max_score"), references, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
            wanted = "min_score (a random policy's, scored as 0) and max_score (a good one's, scored as 100)"
            raise ConfigError(f"gymnasium_task.{parameter} is {value!r}. Set two returns, {wanted}, or neither.")
    low, high = map(float, references)
    if not high > low:
        raise ConfigError(f"gymnasium_task.max_score ({high:g}) must be above min_score ({low:g}).")
    task = describe_environment(env_id, env_kwargs, episode_limit, (state_dim, action_dim))
    task = replace(task, name=name or task.name, min_score=low, max_score=high, scored=min_score is not None)
    if task.name in tasks and tasks.entry(task.name).source == SOURCE:
        tasks.remove(task.name)  # an earlier one of the user's
    tasks.add(task.name, task, source=SOURCE, summary=f"{env_id}, as configured")
    return task.name


def task_statements(task: Task, origin: str) -> list[str]:
    """The gin statements that make a task of `describe_environment` again, and where its reference scores are from."""
    scores = {"min_score": task.min_score, "max_score": task.max_score} if task.scored else {}
    sizes = {"episode_limit": task.episode_limit, "state_dim": task.state_dim, "action_dim": task.action_dim}
    known = {**task.env_kwargs, **scores, **sizes, "name": task.name}
    first = ["Experiment.task = @gymnasium_task()", f"# reference scores: {origin}"]
    return [*first, *(f"gymnasium_task.{name} = {value!r}" for name, value in known.items())]
