"""What a user brings: a module with an environment of her own, and a file of what was recorded there, in its units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MODULE = '''"""A mass on a rail, pulled by a motor."""

import gymnasium
import numpy as np


class Rail(gymnasium.Env):
    """Position and speed; the action is a force in [LOW, HIGH]; the reward is highest at 0."""

    def __init__(self, low=LOW, high=HIGH):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        position, speed = self.state
        force = float(action[0])
        speed = speed + 0.1 * force
        self.state = np.array([position + 0.1 * speed, speed], dtype=np.float32)
        return self.state.copy(), -float(position**2 + 0.01 * force**2), False, False, {}


gymnasium.register("own/Rail-v0", entry_point=Rail, max_episode_steps=20)
'''
ENV_ID = "rail:own/Rail-v0"
STEPS = 20


def write_module(folder: Path, low: float = -2.0, high: float = 2.0) -> Path:
    """`rail.py`, which registers own/Rail-v0 with forces in [low, high]."""
    path = folder / "rail.py"
    path.write_text(MODULE.replace("low=LOW, high=HIGH", f"low={low!r}, high={high!r}"))
    return path


def write_data(folder: Path, low: float = -2.0, high: float = 2.0, episodes: int = 10) -> Path:
    """`rail.npz`: episodes of a noisy controller, forces as the environment takes them, in [low, high]."""
    rng, half, middle = np.random.default_rng(0), (high - low) / 2, (high + low) / 2
    states, forces = [rng.uniform(-1.0, 1.0, (episodes, 2)).astype(np.float32)], []
    for _ in range(STEPS):
        position, speed = states[-1].T
        shares = np.clip(-4.0 * position - 2.0 * speed + rng.normal(size=episodes), -1.0, 1.0)
        forces.append(np.float32(shares * half + middle))
        speed = speed + 0.1 * forces[-1]
        states.append(np.stack([position + 0.1 * speed, speed], axis=1).astype(np.float32))
    seen, actions = np.stack(states, axis=1), np.stack(forces, axis=1)  # (episodes, steps, ...)
    arrays = {
        "observations": seen[:, :-1].reshape(-1, 2),
        "actions": actions.reshape(-1, 1),
        "rewards": -(seen[:, :-1, 0] ** 2 + np.float32(0.01) * actions**2).reshape(-1),
        "next_observations": seen[:, 1:].reshape(-1, 2),
    }
    path, ends = folder / "rail.npz", np.arange(episodes * STEPS) % STEPS == STEPS - 1
    np.savez(path, **arrays, terminals=np.zeros_like(ends), timeouts=ends)
    return path


def task_gin(data: Path, *more: str) -> str:
    """A gin file's text that trains on both, with reference scores."""
    return f"""
Experiment.task = @gymnasium_task()
gymnasium_task.env_id = {ENV_ID!r}
gymnasium_task.min_score = -10.0
gymnasium_task.max_score = 0.0
load_dataset.sources = ('file:{data}',)
""" + "\n".join(more)
