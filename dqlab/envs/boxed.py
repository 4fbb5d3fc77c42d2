"""Any Gymnasium environment as dqlab's policies see it; importing this module registers `dqlab/Boxed-v0`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.wrappers import FlattenObservation

from dqlab.envs.checked_env import CheckedEnv, check_step_tuple, check_vectors, describe_error
from dqlab.envs.tasks import UNLIMITED, fit_action, from_unit
from dqlab.errors import ConfigError
from dqlab.files import look_here_for

EXACT = 2.0**53  # bounds beyond it are taken for none: integers are not exact there


def boxed(env_id: str, env_kwargs: Mapping[str, Any] | None = None, render_mode: str | None = None) -> Any:
    """The environment with actions in [-1, 1], a flat observation, no step limit; a ConfigError where it cannot be."""
    env = make_unlimited(env_id, {**(env_kwargs or {}), **({"render_mode": render_mode} if render_mode else {})})
    actions, observations = env.action_space, env.observation_space
    check_vectors(env_id, "actions", actions)
    if not (np.abs(np.array([actions.low, actions.high], dtype=np.float64)) < EXACT).all():
        raise ConfigError(
            f"{env_id} has unbounded actions ({actions}); dqlab keeps actions in [-1, 1]. Wrap it with bounds first."
        )
    parts = observations.spaces.values() if isinstance(observations, Dict) else [None]
    vectors = all(isinstance(part, Box) and len(part.shape) == 1 for part in parts)
    return FlattenObservation(UnitActions(env)) if vectors else UnitActions(env)


class UnitActions(gymnasium.Wrapper):  # type: ignore[misc]
    """An environment whose actions (A,) lie in [-1, 1] and reach it within its own bounds, in its own dtype.

    Where the dtype is an integer's, the nearest one is taken; where both bounds of a dimension are the same, any
    number stands for them.
    """

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        space = env.action_space
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._fit = fit_action(space.low, space.high, space.dtype)
        floating = space.dtype if np.issubdtype(space.dtype, np.floating) else np.float32
        self.action_space = Box(-1.0, 1.0, space.shape, floating)

    def step(self, action: Any) -> Any:
        return check_step_tuple(self.env.step(self._fit(from_unit(action, self._low, self._high))))


def checked_env(env: Any, action_dim: int) -> CheckedEnv:
    """An environment, or that of an id, with flat observations and checked at every step; actions in its own units.

    A ConfigError where it cannot be made, or has other actions.
    """
    made = _make(env) if isinstance(env, str) else env
    name = env if isinstance(env, str) else made.spec.id if getattr(made, "spec", None) else type(made).__name__
    check_vectors(name, "actions", made.action_space, action_dim)
    return CheckedEnv(FlattenObservation(made), name)


def make_unlimited(env_id: str, env_kwargs: Mapping[str, Any]) -> Any:
    """The environment as it is, without a step limit."""
    return _make(env_id, max_episode_steps=UNLIMITED, disable_env_checker=True, **env_kwargs)


def _make(env_id: str, **options: Any) -> Any:
    look_here_for(env_id.rpartition(":")[0])
    try:
        return gymnasium.make(env_id, **options)
    except (Exception, SystemExit) as error:  # somebody's constructor
        why = f"it raised {describe_error(error)}"
        if isinstance(error, (ImportError, TypeError, ValueError, AttributeError, gymnasium.error.Error)):
            why = (str(error).splitlines() or [repr(error)])[0].rstrip(".?")
        raise ConfigError(
            f"Cannot make the environment '{env_id}': {why}. Check its id and its arguments, and that its package is "
            "installed; an id that a module registers is written MODULE:NAME."
        ) from error


gymnasium.register("dqlab/Boxed-v0", entry_point="dqlab.envs.boxed:boxed")  # so collected datasets know it
