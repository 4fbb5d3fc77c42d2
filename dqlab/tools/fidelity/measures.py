"""What is compared: states after one step and after many, and what a policy earns from the same initial states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dqlab.envs import tasks
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError
from dqlab.tools.fidelity.stacks import Array, D4RLStack, EnvironmentStack, GymnasiumStack, State, states_near_goals

Policy = Callable[[Array], Array]
"""Observations (n, S) -> actions (n, A)."""


@dataclass(frozen=True)
class StackErrors:
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


def one_step(
    original: EnvironmentStack, today: EnvironmentStack, action_dim: int, steps: int, seed: int = 0
) -> StackErrors:
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
        original.set_states(states)
        today.set_states(states)
        actions = draw.uniform(-1.0, 1.0, (len(states), action_dim))
        errors.append(_compare(original, today, actions))
        over, following = errors[-1][3], original.states()
        states = [start if ended else state for start, ended, state in zip(begun, over, following, strict=True)]
    return _gathered(errors, lambda columns: np.concatenate(columns))


def many_steps(
    original: EnvironmentStack,
    other: EnvironmentStack,
    action_dim: int,
    steps: int,
    scale: float = 1.0,
    nudge: float = 0.0,
    seed: int = 0,
) -> StackErrors:
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
    original.set_states(states)
    other.set_states([_nudged(state, nudge * draw.normal(size=len(state["qpos"]))) for state in states])
    actions = draw.uniform(-scale, scale, (steps, len(states), action_dim))
    errors = [_compare(original, other, each) for each in actions]
    return _gathered(errors, lambda columns: np.asarray(np.max(columns, axis=0)))


def _nudged(state: State, by: Array) -> State:
    return {**state, "qpos": (np.array(state["qpos"]) + by).tolist()}


def returns_in_both(
    original: EnvironmentStack, other: EnvironmentStack, policy: Policy, nudge: float = 0.0, seed: int = 0
) -> tuple[Array, Array]:
    """Undiscounted returns (n,) of a policy in both, from the same initial states, near the goals if there are any.

    Args:
        original, other, nudge, seed: as in `many_steps`.
        policy: acts on each state alone.
    """
    states, draw = _begin(original, seed), np.random.default_rng(seed)
    other.reset(_seeds(len(states), seed))
    other.set_states(states)  # as often as the original: each draws the noise of an observation
    states = states_near_goals(states, original.set_states(states), seed)
    begun = other.set_states([_nudged(state, nudge * draw.normal(size=len(state["qpos"]))) for state in states])
    return _roll(original, original.set_states(states), policy), _roll(other, begun, policy)


def _begin(original: EnvironmentStack, seed: int) -> list[State]:
    original.reset(_seeds(len(original.states()), seed))
    return original.states()


def _seeds(count: int, seed: int) -> list[int]:
    return [int(number) for number in np.random.SeedSequence([seed, count]).generate_state(count)]


def _roll(side: EnvironmentStack, observations: Array, policy: Policy) -> Array:
    total, live = np.zeros(len(observations)), np.ones(len(observations), dtype=bool)
    while live.any():
        moved = side.step(policy(observations))
        total += np.where(live, moved.reward, 0.0)
        live, observations = live & ~moved.over, moved.observation
    return total


TracePoint = tuple[Array, Array, Array, NDArray[np.bool_], int]


def _compare(original: EnvironmentStack, today: EnvironmentStack, actions: Array) -> TracePoint:
    """Step both; differences (n,) of state, observation and reward, where the original's ended, disagreements."""
    one, other = original.step(actions), today.step(actions)
    return (
        np.abs(original.physical() - today.physical()).max(axis=1),
        np.abs(one.observation - other.observation).max(axis=1),
        np.abs(one.reward - other.reward),
        one.terminated,
        int((one.terminated != other.terminated).sum()),
    )


def _gathered(rows: list[TracePoint], gather: Callable[[list[Array]], Array]) -> StackErrors:
    state, observation, reward, _, disagreements = zip(*rows, strict=True)
    return StackErrors(gather(list(state)), gather(list(observation)), gather(list(reward)), sum(disagreements))


Say = Callable[[str], None]
ONE, MANY = 50, 100
"""Steps of the roll-outs whose states are compared after one step, and of those that are left to themselves."""
NUDGE = 1e-13
"""What the original is moved by to see how fast it runs away from itself."""


@dataclass(frozen=True)
class FidelityRow:
    """An environment in one stack, held against the original.

    Attributes:
        environment: D4RL's environment; `stepped_by`: backend and physics.
        one, many: errors after one step and along many; `one` is None for the original itself.
        returns: of the fixed policy, the original's and this one's; None likewise.
        missing: why there are no figures; empty where there are.
    """

    environment: str
    stepped_by: str
    one: StackErrors | None = None
    many: StackErrors | None = None
    returns: tuple[Array, Array] | None = None
    missing: str = ""


def shared_environments() -> dict[str, Task]:
    """D4RL's environments that today's packages have too, with the first task of each."""
    found: dict[str, Task] = {}
    for entry in tasks:
        if entry.item.file:
            found.setdefault(entry.item.robot, entry.item)
    return found


def measure_environment(task: Task, copies: int, say: Say) -> Iterator[FidelityRow]:
    """All rows of an environment: the original against itself, then today's with each physics that makes a difference.

    Args:
        task: whose environment.
        copies: roll-outs and episodes of each figure.
        say: is told what is measured.
    """
    with closing(D4RLStack(task, copies, noise=False)) as silent, closing(D4RLStack(task, copies)) as original:
        say(f"{task.robot}: d4rl against itself")
        with closing(D4RLStack(task, copies, noise=False)) as again:
            many = _free(silent, again, task, NUDGE)
        with closing(D4RLStack(task, copies)) as again:
            yield FidelityRow(task.robot, "d4rl, nudged", many=many, returns=_earned(task, original, again, NUDGE))
        for physics in laws_of(task):
            say(f"{task.robot}: gymnasium, {physics or 'its own model'}")
            yield _row(task, copies, silent, original, physics)


def laws_of(task: Task) -> list[str]:
    """Names of the physics laws that change this environment; an empty one where none does."""
    return physics_laws.names() if task.body is not None else [""]


def _row(task: Task, copies: int, silent: EnvironmentStack, original: EnvironmentStack, physics: str) -> FidelityRow:
    name, law = f"gymnasium, {physics}".rstrip(", "), physics or "mujoco210"
    try:
        with closing(GymnasiumStack(task, copies, False, law)) as today:
            one = one_step(silent, today, task.action_dim, ONE)
            many = _free(silent, today, task)
        with closing(GymnasiumStack(task, copies, True, law)) as today:
            return FidelityRow(task.robot, name, one, many, _earned(task, original, today))
    except ConfigError as error:
        return FidelityRow(task.robot, name, missing=str(error))


def _free(original: EnvironmentStack, other: EnvironmentStack, task: Task, nudge: float = 0.0) -> StackErrors:
    return many_steps(original, other, task.action_dim, MANY, nudge=nudge)


def _earned(task: Task, original: EnvironmentStack, other: EnvironmentStack, nudge: float = 0.0) -> tuple[Array, Array]:
    return returns_in_both(original, other, linear_policy(task.state_dim, task.action_dim), nudge=nudge)


def mean_and_std(values: Array) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.4g} +- {values.std():.2g}"
