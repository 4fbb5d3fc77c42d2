"""The boundary to an environment: it gets actions that it takes, what it gives is checked, what it raises is named."""

from __future__ import annotations

from typing import Any, NoReturn

import gymnasium
import numpy as np

from dqlab.envs.physics import Array
from dqlab.envs.tasks import fit_action
from dqlab.errors import ConfigError, DqlabError, EnvError, NotFiniteError, error_place


class CheckedEnv(gymnasium.Wrapper):  # type: ignore[misc]
    """An environment with a flat Box of actions and of observations, at every reset and step.

    Actions are clipped into its bounds and cast to its dtype. What it gives must be five values, an observation of the
    shape that its space says, finite, and a finite reward; they are passed on as an array, a float and two flags.

    Args:
        env: the environment.
        name: what messages call it.
        casts: whether actions are cast; D4RL's environments compute with the float64 that they are given.

    Raises:
        EnvError: at a reset or a step the environment raises an error, `SystemExit` included, or gives what its spaces
            and Gymnasium's interface do not allow. One line names it, the step and the seed.
        NotFiniteError: an observation or a reward is not finite.
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
        return observation

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
        raise ConfigError(
            f"The environment '{name}' has {what} {space}; dqlab's are vectors: a flat Box (observations may be a Dict "
            "of such). Wrap it first."
        )
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
