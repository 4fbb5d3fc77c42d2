"""Initial states from which a policy that knows nothing earns something where D4RL's rewards are sparse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dqlab.fidelity.sides import Array
from dqlab.fidelity.states import State

NEAR = 0.75
"""m from the ant to its goal, which is reached at 0.5."""


def near_goals(states: Sequence[State], observations: Array, seed: int = 0) -> list[State]:
    """The same states with AntMaze's goal 0.75 m from the ant, and the kitchen's objects on their way.

    An object is put 50 to 100% of the way from where it is to where it should be, so that some goals are reached at
    once, others only by what noise and motion add.

    Args:
        states, observations (n, S): of n environments; the kitchen's goal is the second half of its observation.
        seed: of the directions, and of how far the objects are.
    """
    draw = np.random.default_rng(seed)
    return [_near(state, seen, draw) for state, seen in zip(states, observations, strict=True)]


def _near(state: State, seen: Array, draw: np.random.Generator) -> State:
    position = np.array(state["qpos"])
    if "goal" in state:
        angle = draw.uniform(0.0, 2.0 * np.pi)
        return {**state, "goal": (position[:2] + NEAR * np.array([np.cos(angle), np.sin(angle)])).tolist()}
    if "remaining" in state:
        goal = seen[len(position) :]
        moved = position + draw.uniform(0.5, 1.0) * (goal - position)
        return {**state, "qpos": np.where(goal != 0.0, moved, position).tolist()}
    return state
