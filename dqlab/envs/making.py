"""Building a task's environment."""

from __future__ import annotations

import warnings
from typing import Any

from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DqlabError


def make_env(task: Task, physics: str = "mujoco210", **arguments: Any) -> Any:
    """The task's Gymnasium environment, with an episode limit and the chosen physics, guarded (`envs/guard.py`).

    Args:
        task: which task.
        physics: a name from the `physics` registry; `mujoco210` gives D4RL's dynamics. Environments without a MuJoCo
            model have none.
        arguments: more of the environment's own, such as `render_mode`.

    Raises:
        ConfigError: unknown physics, a wrong choice, what the environment needs is not installed, it cannot be made, or
            its observations and actions are not the task's.
    """
    law = physics_laws.get(physics)
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError("Environments need gymnasium and mujoco: pip install dqlab") from error
    from dqlab.envs.guard import Guarded, said

    given, name = {**task.arguments(), **arguments}, task.environment
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            env = gymnasium.make(task.env_id, max_episode_steps=task.episode_limit, disable_env_checker=True, **given)
        except DqlabError:
            raise
        except (ImportError, gymnasium.error.Error) as error:
            wanted = f"'dqlab[{task.extra}]'" if task.extra else "dqlab"
            raise ConfigError(f"Cannot build {task.env_id}: {error}. Try: pip install {wanted}") from error
        except (Exception, SystemExit) as error:  # somebody's constructor
            raise ConfigError(f"The environment '{name}' cannot be made: it raised {said(error)}.") from error
    _check_spaces(task, name, env)
    if task.body is not None:
        law(env.unwrapped.model, task.body)
    return Guarded(env, name, casts=not task.file)


def _check_spaces(task: Task, name: str, env: Any) -> None:
    """See that observations and actions are vectors, and as wide as the task says, where it says so."""
    from gymnasium.spaces import Box

    sides = (("observations", env.observation_space, task.state_dim), ("actions", env.action_space, task.action_dim))
    for what, space, width in sides:
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise ConfigError(f"The environment '{name}' has {what} {space}; dqlab's are vectors: a flat Box.")
        if width and space.shape != (width,):
            raise ConfigError(
                f"The environment '{name}' has {what} of width {space.shape[0]}; the task {task.name} says {width}."
            )
