"""Building a task's environment."""

from __future__ import annotations

import warnings
from typing import Any

from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError


def make_env(task: Task, physics: str = "mujoco210", **arguments: Any) -> Any:
    """The task's Gymnasium environment, with an episode limit and the chosen physics.

    Args:
        task: which task.
        physics: a name from the `physics` registry; `mujoco210` gives D4RL's dynamics. Environments without a MuJoCo
            model have none.
        arguments: more of the environment's own, such as `render_mode`.

    Raises:
        ConfigError: unknown physics, a wrong choice, or what the environment needs is not installed.
    """
    law = physics_laws.get(physics)
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError("Environments need gymnasium and mujoco: pip install dqlab") from error
    given = {**task.arguments(), **arguments}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            env = gymnasium.make(task.env_id, max_episode_steps=task.episode_limit, disable_env_checker=True, **given)
        except (ImportError, gymnasium.error.Error) as error:
            wanted = f"'dqlab[{task.extra}]'" if task.extra else "dqlab"
            raise ConfigError(f"Cannot build {task.env_id}: {error}. Try: pip install {wanted}") from error
    if task.body is not None:
        law(env.unwrapped.model, task.body)
    return env
