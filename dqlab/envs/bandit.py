"""The 2D bandit of the Diffusion-QL paper (appendix on toy experiments): its four modes, and its task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqlab.envs.tasks import Task, tasks

RADIUS = 0.25  # actions that are at most so far from a mode's centre belong to it: five of its standard deviations
REWARD_STD = 0.5  # standard deviation of the rewards of a mode's actions


class GaussianMode(NamedTuple):
    """One of the four Gaussians that the bandit's actions are made of, and the mean reward of its actions."""

    name: str
    centre: tuple[float, float]
    reward: float


MODES = (
    GaussianMode("upper left", (-0.8, 0.8), 3.0),
    GaussianMode("lower left", (-0.8, -0.8), 0.0),
    GaussianMode("upper right", (0.8, 0.8), 1.5),
    GaussianMode("lower right", (0.8, -0.8), 5.0),
)
CENTRES = np.array([mode.centre for mode in MODES])
REWARDS = np.array([mode.reward for mode in MODES])
BEST = int(REWARDS.argmax())
_env, _scores = "dqlab.envs.bandit_env:dqlab/Bandit2D-v0", (float(REWARDS.min()), float(REWARDS.max()))
BANDIT = Task("bandit-2d", "bandit", _env, *_scores, episode_limit=1, file="", state_dim=1, action_dim=2)
"""One step, one state; a score of 0 is the worst mode's mean reward, 100 the best one's."""
_summary = "one-step bandit, actions in [-1, 1]^2 around four modes, the best of them lower right"
_source = "Wang, Hunt, Zhou 2022 (2D bandit)"
tasks.add(BANDIT.name, BANDIT, source=_source, cites=("wang2023diffusion",), summary=_summary)


def modes_of(actions: NDArray[np.floating]) -> NDArray[np.int64]:
    """The mode (n,) that each action (n, 2) belongs to, an index into `MODES`; -1 for those far from all of them."""
    distances = np.linalg.norm(actions[:, None] - CENTRES, axis=-1)
    return np.where(distances.min(axis=1) <= RADIUS, distances.argmin(axis=1), -1)
