"""What happens in an environment, as rows of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dqlab.tools.collect.episodes import Rows

_kept = partial(np.array, dtype=np.float32)  # a copy: environments may use their arrays again


class EpisodeRecorder(gymnasium.Wrapper):  # type: ignore[misc]
    """Keeps the rows of an environment with actions in [-1, 1], and hands over every episode when it ends."""

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
        action = _kept(action)  # the environment gets it as it is stored, so that rows can be replayed
        row = {"observations": self._observation, "actions": action.copy()}
        data: Any = getattr(self.env.unwrapped, "data", None)
        if hasattr(data, "qpos") and hasattr(data, "qvel"):  # of MuJoCo: from there the step can be replayed
            row |= {"infos/qpos": np.array(data.qpos, float).ravel(), "infos/qvel": np.array(data.qvel, float).ravel()}
        given = self.env.step(action)
        observation, reward, terminated, truncated, info = given
        self._observation = _kept(observation)
        row |= {f"infos/{name}": value for name, value in info.get("recorded", {}).items()}
        row |= {"rewards": np.float32(reward), "next_observations": self._observation}
        self._rows.append(row | {"terminals": bool(terminated), "timeouts": False})
        if terminated or truncated:
            self.cut()
        return given

    def cut(self) -> None:
        """Hand over the episode that is under way, if any: as cut, unless it has ended by itself."""
        if self._rows:
            rows, self._rows = self._rows, []
            rows[-1]["timeouts"] = not rows[-1]["terminals"]
            self._finished({name: np.asarray([row[name] for row in rows]) for name in rows[0]})
