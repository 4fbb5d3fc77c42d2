"""What a user learns of an environment of her own, before anything is trained."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dqlab.testing import check_environment


class Mine(gymnasium.Env):
    """Well-behaved, but for what it is asked for."""

    shared = 0

    def __init__(self, fault: str = "") -> None:
        self.fault, self.observation_space = fault, Box(-np.inf, np.inf, (2,))
        self.action_space = Discrete(3) if fault == "discrete" else Box(-5.0, 5.0, (3,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, Mine.shared = 0, 0
        self.start = random.random() if self.fault == "unseeded" else self.np_random.random()
        return np.array([self.start, 0.0], np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.time, Mine.shared = self.time + 1, Mine.shared + 1
        reward = float(action.sum())
        reward = float("nan") if self.fault == "nan" and reward == 15.0 and self.time == 2 else reward
        reward += Mine.shared if self.fault == "shared" else 0.0
        width = 3 if self.fault == "wide" and self.time == 4 else 2
        return np.full(width, self.start, np.float32), reward, self.time == 7, False, {}


gymnasium.register("mine/Mine-v0", Mine, max_episode_steps=10)
gymnasium.register("mine/Endless-v0", Mine)


def test_a_good_one_passes() -> None:
    check_environment("mine/Mine-v0")
    check_environment("mine/Endless-v0", episode_limit=5)
    check_environment("Pendulum-v1")


FAULTS = [
    ("discrete", "has actions Discrete"),
    ("unseeded", "starts otherwise when it is reset with the same seed 0: it draws from something else"),
    ("nan", "gives a NaN or infinite reward, at step 2 of an episode with seed 2"),
    ("shared", "Two copies of 'mine/Mine-v0', stepped in turn, give different rewards at step 1"),
    ("wide", "gives an observation of shape"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_faults_are_named(fault: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said) as caught:
        check_environment("mine/Mine-v0", {"fault": fault})
    assert "\n" not in str(caught.value)


def test_what_cannot_be_made_is_named() -> None:
    with pytest.raises(AssertionError, match="Did you mean: `Pendulum`"):
        check_environment("Pendulm-v1")
    with pytest.raises(AssertionError, match="set episode_limit"):
        check_environment("mine/Endless-v0")
