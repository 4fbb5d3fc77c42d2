"""The boundary to an environment: it gets actions that it takes, what it gives is checked, what it raises is named.

And any Gymnasium environment as dqlab's policies see it; importing this module registers `dqlab/Boxed-v0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.wrappers import FlattenObservation

from dqlab.envs.physics import Array
from dqlab.envs.tasks import UNLIMITED, fit_action, from_unit
from dqlab.errors import ConfigError, DqlabError, EnvError, NotFiniteError, error_place
from dqlab.files import look_here_for

EXACT = 2.0**53  # bounds beyond it are taken for none: integers are not exact there


class CheckedEnv(gymnasium.Wrapper):  # type: ignore[misc]
    """An environment with a flat Box of actions and of observations, at every reset and step.

    Actions are clipped into its bounds and cast to its dtype. What it gives must be five values, an observation of the
    shape that its space says, finite, and a finite reward; they are passed on as float64, a float and two flags.

    Args:
        env: the environment.
        name: what messages call it.
        casts: whether actions are cast; D4RL's environments compute with the float64 that they are given.

    Raises EnvError, one line with its name, the step and the seed, where at a reset or a step the environment raises an
    error, `SystemExit` included, or gives what its spaces and Gymnasium's interface do not allow; NotFiniteError where
    an observation or a reward is not finite.
    """

    def __init__(self, env: Any, name: str, casts: bool = True) -> None:
        super().__init__(env)
        space = env.action_space
        self._fit = fit_action(space.low, space.high, space.dtype if casts else None)
        self._name, self._width, self._shape = name, space.shape, env.observation_space.shape
        self._seed: int | None = None
        self._steps = 0

    @property
    def spec(self) -> Any:
        """The environment's own: the check is no part of what makes it again."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        self._seed, self._steps = seed, 0
        try:
            given = self.env.reset(seed=seed, options=options)
            if type(given) is not tuple or len(given) != 2:
                raise _ContractError(f"gives {_what(given)} instead of (observation, info)")
            observation = self._observed(given[0])
        except (Exception, SystemExit) as error:
            self._explain(error)
        if not np.isfinite(observation).all():
            raise NotFiniteError(self._line("gives a NaN or infinite observation"), observation)
        return observation, given[1]

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if np.shape(action) != self._width:
            raise EnvError(self._line(f"takes actions of shape {self._width}, not {np.shape(action)}"))
        try:
            observation, reward, terminated, truncated, info = check_step_tuple(self.env.step(self._fit(action)))
            observation = self._observed(observation)
            if type(reward) is not float:
                number = np.asarray(reward)
                if number.size != 1 or number.dtype.kind not in "fiub":
                    raise _ContractError(f"gives {_what(reward)} as the reward, not a number")
                reward = float(number.item())
            taken = observation, reward, bool(terminated), bool(truncated), info
        except (Exception, SystemExit) as error:
            self._explain(error)
        if not (np.isfinite(observation).all() and reward - reward == 0.0):
            what = "reward" if np.isfinite(observation).all() else "observation"
            raise NotFiniteError(self._line(f"gives a NaN or infinite {what}"), taken)
        return taken

    def _observed(self, given: Any) -> Array:
        observation = np.asarray(given)
        if observation.shape != self._shape:
            raise _ContractError(f"gives an observation of shape {observation.shape}; its space says {self._shape}")
        if observation.dtype.kind not in "fiub":
            raise _ContractError(f"gives an observation of {observation.dtype}, which are no numbers")
        return observation.astype(np.float64, copy=False)  # a reset's may be integers where later ones are not

    def _explain(self, error: BaseException) -> NoReturn:
        if isinstance(error, DqlabError):
            raise error
        what = str(error) if isinstance(error, _ContractError) else f"raised {describe_error(error)}"
        raise EnvError(self._line(what)) from error

    def _line(self, what: str) -> str:
        seed = "without a seed of its own" if self._seed is None else f"with seed {self._seed}"
        when = f"at step {self._steps}" if self._steps else "at the start"
        return f"The environment '{self._name}' {what}, {when} of an episode {seed}."


def check_vectors(name: str, what: str, space: Any, width: int = 0) -> None:
    """See that observations or actions are vectors, as wide as the task says, where it does; a ConfigError if not."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        wanted = "dqlab's are vectors: a flat Box (observations may be a Dict of such). Wrap it first."
        raise ConfigError(f"The environment '{name}' has {what} {space}; {wanted}")
    if width and space.shape != (width,):
        raise ConfigError(f"The environment '{name}' has {what} of width {space.shape[0]}; its task says {width}.")


def check_step_tuple(given: Any) -> Any:
    """What a step gave, which must be a tuple of five: also before other wrappers take it apart."""
    if type(given) is not tuple or len(given) != 5:
        raise _ContractError(f"gives {_what(given)} instead of (observation, reward, terminated, truncated, info)")
    return given


class _ContractError(Exception):
    """What an environment does wrong, as the rest of a sentence."""


def describe_error(error: BaseException) -> str:
    """An error in one line, with its place."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}{text and f': {text}'} ({error_place(error)})"


def _what(given: Any) -> str:
    if isinstance(given, tuple):
        return f"{len(given)} values"
    return f"{given!r:.60}" if given is None or np.isscalar(given) else f"a {type(given).__name__}"


def boxed(env_id: str, env_kwargs: Mapping[str, Any] | None = None, render_mode: str | None = None) -> Any:
    """The environment with actions in [-1, 1], a flat observation, no step limit; a ConfigError where it cannot be."""
    env = make_unlimited(env_id, {**(env_kwargs or {}), **({"render_mode": render_mode} if render_mode else {})})
    actions, observations = env.action_space, env.observation_space
    check_vectors(env_id, "actions", actions)
    if not (np.abs(np.array([actions.low, actions.high], dtype=np.float64)) < EXACT).all():
        advice = "dqlab keeps actions in [-1, 1]. Wrap it with bounds first."
        raise ConfigError(f"{env_id} has unbounded actions ({actions}); {advice}")
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
        advice = "Check its id and its arguments, and that its package is installed"
        named = "an id that a module registers is written MODULE:NAME"
        raise ConfigError(f"Cannot make the environment '{env_id}': {why}. {advice}; {named}.") from error


gymnasium.register("dqlab/Boxed-v0", entry_point="dqlab.envs.boxed:boxed")  # so collected datasets know it
