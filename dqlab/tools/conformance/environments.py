"""What a Gymnasium environment must do so that policies can be evaluated, and data collected, in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.envs import make_env
from dqlab.envs.custom import describe_environment
from dqlab.errors import DqlabError

Array = NDArray[Any]
LONGEST = 1000
"""Steps of an episode that are looked at."""


def check_environment(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, episode_limit: int = 0, seed: int = 0
) -> None:
    """Play four episodes in two copies of an environment: at rest, at both bounds of the actions, and at random.

    It must have flat, bounded actions and vectors as observations, take `seed` and `options` at a reset, give
    Gymnasium's five values with a finite observation and reward at every step, and be repeatable: both copies, stepped
    in turn, give the same numbers.

    Args:
        env_id: such as `Pendulum-v1`, or `MODULE:NAME` where importing a module registers it.
        env_kwargs: arguments of the environment.
        episode_limit: steps after which an episode is cut; 0 for the environment's own.
        seed: of the episodes.

    Raises:
        AssertionError: it does not; the message, one line, says what is wrong, and at which step and seed.
    """
    try:
        task = describe_environment(env_id, env_kwargs, episode_limit)
        copies = [make_env(task) for _ in range(2)]
        for number, actions in enumerate(_actions(task.action_dim, seed)):
            _play(copies, actions[: task.episode_limit], seed + number, env_id)
        for copy in copies:
            copy.close()
    except DqlabError as error:
        raise AssertionError(str(error)) from error


def _actions(width: int, seed: int) -> list[Array]:
    """Actions (steps, A) in [-1, 1] of every episode."""
    constant = [np.full((LONGEST, width), value, np.float32) for value in (0.0, -1.0, 1.0)]
    return [*constant, np.random.default_rng(seed).uniform(-1.0, 1.0, (LONGEST, width)).astype(np.float32)]


def _play(copies: list[Any], actions: Array, seed: int, name: str) -> None:
    """One episode in all copies, stepped in turn, and its start once more."""
    for copy in copies:
        copy.reset(seed=seed)
    starts = [copy.reset(seed=seed, options={"group": seed})[0] for copy in copies]
    _check_same(starts, f"The environment '{name}' starts otherwise when it is reset with the same seed {seed}")
    for step, action in enumerate(actions, 1):
        each = [copy.step(action)[:4] for copy in copies]
        where = f"at step {step} of an episode with seed {seed}"
        for what, values in zip(("observations", "rewards", "ends"), zip(*each, strict=False), strict=False):
            _check_same(values, f"Two copies of '{name}', stepped in turn, give different {what} {where}")
        if each[0][2] or each[0][3]:
            break


def _check_same(values: Any, what: str) -> None:
    assert all(np.array_equal(values[0], other) for other in values[1:]), (
        f"{what}: it draws from something else than self.np_random, or its copies share something."
    )
