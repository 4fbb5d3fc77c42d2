"""Minari datasets really made by Minari, from roll-outs of a real environment."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402


def roll_out(env: Any, seed: int) -> Any:
    """One episode of random actions."""
    observations, steps = [env.reset(seed=seed)[0]], []
    env.action_space.seed(seed)
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        steps.append((action, reward, terminated, truncated))
    return EpisodeBuffer(None, None, None, observations, *map(list, zip(*steps, strict=True)))


def pendulums(name: str = "made/pendulum-v0", **arguments: Any) -> Any:
    """InvertedPendulum: random actions drop it after some steps, or it is cut at the third."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make("InvertedPendulum-v4", max_episode_steps=3)
    return create(name, [roll_out(env, seed) for seed in range(6)], env=env, **arguments)


def create(name: str, buffers: list[Any], **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(name, buffers, **arguments)


def rows_of(dataset: Any) -> dict[str, np.ndarray]:
    """What a dataset's columns must be, by Minari's own API, episode by episode."""
    parts = list(dataset.iterate_episodes())
    return {
        "observations": np.concatenate([e.observations[:-1] for e in parts]),
        "next_observations": np.concatenate([e.observations[1:] for e in parts]),
        "actions": np.concatenate([e.actions for e in parts]),
        "rewards": np.concatenate([e.rewards for e in parts]),
        "terminals": np.concatenate([e.terminations for e in parts]),
        "timeouts": np.concatenate([e.truncations & ~e.terminations for e in parts]),
    }
