"""Steps of D4RL's own code on genuine MuJoCo 2.1.0, and how far an environment of dqlab's is from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "envs" / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    """The committed arrays of a name."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def replay(base: Any, recorded: Mapping[str, np.ndarray], steps: int | None = None) -> float:
    """Largest error of state, observation and reward over the first steps, as far as they are recorded; ends agree."""
    worst = 0.0
    for i, action in enumerate(recorded["actions"][:steps]):
        observation, reward, terminated, _, _ = base.step(action)
        found = {"qpos": base.data.qpos, "qvel": base.data.qvel, "observations": observation, "rewards": reward}
        errors = [np.abs(value - recorded[name][i]).max() for name, value in found.items() if name in recorded]
        worst = max(worst, *map(float, errors))
        assert "dones" not in recorded or terminated == recorded["dones"][i]
    return worst
