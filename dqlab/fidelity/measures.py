"""What is compared: states after one step and after many, and what a policy earns from the same initial states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dqlab.fidelity.sides import Array, Side
from dqlab.fidelity.starts import near_goals
from dqlab.fidelity.states import State

Policy = Callable[[Array], Array]
"""Observations (n, S) -> actions (n, A)."""


@dataclass(frozen=True)
class Errors:
    """Largest absolute differences per compared state or roll-out.

    Attributes:
        state (m,): of positions and velocities; `reward` (m,), `observation` (m,) likewise.
        terminations: in how many the two disagree on the end of the episode.
    """

    state: Array
    observation: Array
    reward: Array
    terminations: int


def linear_policy(state_dim: int, action_dim: int, seed: int = 0) -> Policy:
    """tanh of a fixed random linear map, entries N(0, 1 / S): deterministic, and never still."""
    weights = np.random.default_rng(seed).normal(size=(state_dim, action_dim)) / np.sqrt(state_dim)
    return lambda observations: np.asarray(np.tanh(observations @ weights))


def one_step(original: Side, today: Side, action_dim: int, steps: int, seed: int = 0) -> Errors:
    """From each state of roll-outs under uniform actions in [-1, 1]: both stand in it, both take one step.

    Args:
        original, today: n copies each.
        action_dim: A.
        steps: of the roll-outs; n x steps states are compared. A roll-out that ends begins again.
        seed: of initial states and actions.
    """
    draw = np.random.default_rng(seed)
    begun = _begin(original, seed)
    states, errors = begun, []
    for _ in range(steps):
        original.stand(states)
        today.stand(states)
        actions = draw.uniform(-1.0, 1.0, (len(states), action_dim))
        errors.append(_compare(original, today, actions))
        over, following = errors[-1][3], original.states()
        states = [start if ended else state for start, ended, state in zip(begun, over, following, strict=True)]
    return _gathered(errors, lambda columns: np.concatenate(columns))


def many_steps(
    original: Side, other: Side, action_dim: int, steps: int, scale: float = 1.0, nudge: float = 0.0, seed: int = 0
) -> Errors:
    """From the same initial states under the same uniform actions: the largest difference of each roll-out (n,).

    A roll-out goes on after its episode is over: physics knows no end.

    Args:
        original, action_dim, seed: as in `one_step`.
        other: n copies of today's, or of the original again: with a nudge, how fast it runs away from itself.
        steps: of each roll-out.
        scale: actions lie in [-scale, scale].
        nudge: standard deviation of what is added to the other's initial positions.
    """
    draw = np.random.default_rng(seed)
    states = _begin(original, seed)
    original.stand(states)
    other.stand([_nudged(state, nudge * draw.normal(size=len(state["qpos"]))) for state in states])
    actions = draw.uniform(-scale, scale, (steps, len(states), action_dim))
    errors = [_compare(original, other, each) for each in actions]
    return _gathered(errors, lambda columns: np.asarray(np.max(columns, axis=0)))


def _nudged(state: State, by: Array) -> State:
    return {**state, "qpos": (np.array(state["qpos"]) + by).tolist()}


def returns(original: Side, other: Side, policy: Policy, nudge: float = 0.0, seed: int = 0) -> tuple[Array, Array]:
    """Undiscounted returns (n,) of a policy in both, from the same initial states, near the goals if there are any.

    Args:
        original, other, nudge, seed: as in `many_steps`.
        policy: acts on each state alone.
    """
    states, draw = _begin(original, seed), np.random.default_rng(seed)
    other.reset(_seeds(len(states), seed))
    other.stand(states)  # as often as the original: each draws the noise of an observation
    states = near_goals(states, original.stand(states), seed)
    begun = other.stand([_nudged(state, nudge * draw.normal(size=len(state["qpos"]))) for state in states])
    return _roll(original, original.stand(states), policy), _roll(other, begun, policy)


def _begin(original: Side, seed: int) -> list[State]:
    original.reset(_seeds(len(original.states()), seed))
    return original.states()


def _seeds(count: int, seed: int) -> list[int]:
    return [int(number) for number in np.random.SeedSequence([seed, count]).generate_state(count)]


def _roll(side: Side, observations: Array, policy: Policy) -> Array:
    total, live = np.zeros(len(observations)), np.ones(len(observations), dtype=bool)
    while live.any():
        moved = side.step(policy(observations))
        total += np.where(live, moved.reward, 0.0)
        live, observations = live & ~moved.over, moved.observation
    return total


Row = tuple[Array, Array, Array, NDArray[np.bool_], int]


def _compare(original: Side, today: Side, actions: Array) -> Row:
    """Step both; differences (n,) of state, observation and reward, where the original's ended, disagreements."""
    one, other = original.step(actions), today.step(actions)
    return (
        np.abs(original.physical() - today.physical()).max(axis=1),
        np.abs(one.observation - other.observation).max(axis=1),
        np.abs(one.reward - other.reward),
        one.terminated,
        int((one.terminated != other.terminated).sum()),
    )


def _gathered(rows: list[Row], gather: Callable[[list[Array]], Array]) -> Errors:
    state, observation, reward, _, disagreements = zip(*rows, strict=True)
    return Errors(gather(list(state)), gather(list(observation)), gather(list(reward)), sum(disagreements))
