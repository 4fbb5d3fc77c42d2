"""What happens in an environment, as rows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]
"""Arrays (n, ...) by D4RL's names: `observations`, `actions`, ..., and `infos/qpos`, `infos/qvel` of MuJoCo's."""

DTYPES = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "next_observations": np.float32,
    "terminals": np.bool_,
    "timeouts": np.bool_,
    "infos/qpos": np.float64,
    "infos/qvel": np.float64,
}


class Recorder(gymnasium.Wrapper):  # type: ignore[misc]
    """Keeps the rows of an environment with actions in [-1, 1], and hands over every episode when it ends.

    Actions reach the environment as they are stored, in float32, so that rows can be replayed.

    Args:
        env: the environment.
        finished: called with the rows of each episode.
    """

    def __init__(self, env: Any, finished: Callable[[Rows], None]) -> None:
        super().__init__(env)
        self._finished, self._rows = finished, list[dict[str, Any]]()

    def reset(self, **arguments: Any) -> Any:
        """Begin an episode; one that is under way ends here, as cut."""
        self.cut()
        observation, info = self.env.reset(**arguments)
        self._observation = _kept(observation)
        return observation, info

    def step(self, action: NDArray[np.floating]) -> Any:
        """Step, and keep the row."""
        action = _kept(action)
        row = {"observations": self._observation, "actions": action.copy(), **physics_state(self.env)}
        given = self.env.step(action)
        observation, reward, terminated, truncated = given[:4]
        self._observation = _kept(observation)
        ended = {"terminals": terminated, "timeouts": truncated and not terminated}
        self._rows.append({**row, "rewards": reward, "next_observations": self._observation, **ended})
        if terminated or truncated:
            self._hand_over()
        return given

    def cut(self) -> None:
        """End the episode that is under way, if any."""
        if self._rows:
            self._rows[-1]["timeouts"] = True
            self._hand_over()

    def _hand_over(self) -> None:
        rows, self._rows = self._rows, []
        self._finished({name: np.asarray([row[name] for row in rows], dtype=DTYPES[name]) for name in rows[0]})


def _kept(values: Any) -> NDArray[np.float32]:
    """A copy: environments may use their arrays again."""
    return np.array(values, dtype=np.float32)


def physics_state(env: Any) -> Rows:
    """Positions and velocities of a MuJoCo environment, from which a step can be replayed; none of others."""
    data: Any = getattr(env.unwrapped, "data", None)
    if not (hasattr(data, "qpos") and hasattr(data, "qvel")):
        return {}
    return {"infos/qpos": np.array(data.qpos).ravel(), "infos/qvel": np.array(data.qvel).ravel()}


def joined(episodes: Sequence[Rows]) -> Rows:
    """Rows of several episodes, one after the other."""
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
