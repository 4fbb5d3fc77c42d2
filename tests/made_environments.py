"""A user's own environment that goes wrong as it is told to, with a dataset and a gin file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import TINY

ODD = '''
"""An environment that goes wrong in its third step ($ODD says how) until it has begun $ODD_UNTIL episodes; after
$ODD_AFTER, where that is set."""

import os
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Odd(gymnasium.Env):
    begun = 0

    def __init__(self):
        self.observation_space = Box(-np.inf, np.inf, (3,))
        self.action_space = Box(np.array([-2.0, 0.5], np.float32), np.array([2.0, 0.5], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, Odd.begun = 0, Odd.begun + 1
        within = int(os.environ.get("ODD_AFTER", 0)) < Odd.begun <= int(os.environ.get("ODD_UNTIL", 10**9))
        self.fault = os.environ.get("ODD", "") if within else ""
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, action.dtype)
        self.time += 1
        fault = self.fault if self.time == 3 else ""
        observation = np.full(3, np.nan if fault == "nan_observation" else 0.1 * self.time, np.float32)
        if fault == "exit":
            sys.exit("no licence")
        if fault == "error":
            raise ZeroDivisionError("by zero")
        reward = float("inf") if fault == "infinite_reward" else float(action[0])
        return observation, reward, False, False, {}


gymnasium.register("Odd-v0", Odd, max_episode_steps=5)
'''


def write_odd(folder: Path, *more: str) -> Path:
    """The module odd.py, odd.npz, and odd.gin, which trains 40 updates on it with evaluations after 20 and 40."""
    rng, rows = np.random.default_rng(0), 60
    (folder / "odd.py").write_text(ODD)
    np.savez(
        folder / "odd.npz",
        observations=rng.normal(size=(rows, 3)).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, size=(rows, 2)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        terminals=np.zeros(rows, dtype=bool),
        timeouts=np.arange(rows) % 5 == 4,
    )
    lines = [
        "include 'gin/diffql_walker2d.gin'",
        *TINY,
        f"load_dataset.sources = ('file:{folder / 'odd.npz'}',)",
        "Experiment.task = @gymnasium_task()",
        "gymnasium_task.env_id = 'odd:Odd-v0'",
        "gymnasium_task.name = 'odd'",
        "gymnasium_task.min_score = -10.0",
        "gymnasium_task.max_score = 10.0",
        "Experiment.device = 'cpu'",
        "Training.steps = 40",
        "Training.execution = 'eager'",
        "DiffusionPolicy.n_timesteps = 2",
        *more,
    ]
    (folder / "odd.gin").write_text("\n".join(lines))
    return folder / "odd.gin"
