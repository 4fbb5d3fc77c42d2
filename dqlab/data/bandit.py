"""The data of the 2D bandit, made from a seed (Diffusion-QL, toy experiments)."""

from __future__ import annotations

import numpy as np

from dqlab.config.fields import check_counts
from dqlab.data.download import Progress, UnavailableError, no_progress
from dqlab.data.formats.base import Columns
from dqlab.data.sources import LocatedDataset, data_sources
from dqlab.envs.bandit import BANDIT, CENTRES, MODES, REWARD_STD, REWARDS
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError

ACTION_STD = 0.05


@data_sources.register("bandit", source="Wang, Hunt, Zhou 2022 (2D bandit)", cites=("wang2023diffusion",))
def bandit(
    task: Task, argument: str = "", progress: Progress = no_progress, seed: int = 0, transitions: int = 10_000
) -> LocatedDataset:
    """The 2D bandit's actions and rewards, drawn from a seed: four Gaussian modes of equal size.

    Args:
        task: `bandit-2d`.
        argument, progress: not used.
        seed: of actions and rewards.
        transitions: in all, a multiple of 4.
    """
    if task != BANDIT:
        raise UnavailableError(f"it makes data for {BANDIT.name} only")
    check_counts("bandit", 0, seed=seed)
    if type(transitions) is not int or transitions < len(MODES) or transitions % len(MODES):
        raise ConfigError(f"bandit.transitions must be a positive multiple of {len(MODES)}, not {transitions!r}.")
    return LocatedDataset(None, is_d4rl=False, rows=make_rows(seed, transitions))


def make_rows(seed: int, transitions: int) -> Columns:
    """Rows of one-step episodes, the modes taking turns, in the layout of a D4RL file.

    Actions are N(centre, 0.05^2) clipped to [-1, 1], rewards N(mean of the mode, 0.5^2). One row more than transitions:
    the Q-learning view of a file takes nothing but an observation from its last row.
    """
    rng = np.random.default_rng(seed)
    mode = np.arange(transitions) % len(MODES)
    actions = np.clip(rng.normal(CENTRES[mode], ACTION_STD), -1.0, 1.0)
    rewards = rng.normal(REWARDS[mode], REWARD_STD)
    ends = np.ones(transitions, dtype=bool)
    return Columns(
        np.zeros((transitions + 1, BANDIT.state_dim), dtype=np.float32),
        np.append(actions, np.zeros((1, BANDIT.action_dim)), axis=0).astype(np.float32),
        np.append(rewards, 0.0).astype(np.float32),
        terminals=np.append(ends, False),
        timeouts=np.zeros(transitions + 1, dtype=bool),
    )
