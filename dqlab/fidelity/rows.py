"""What is measured of each environment: rows of figures, by stepping both stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task, tasks
from dqlab.errors import ConfigError
from dqlab.fidelity.measures import Errors, linear_policy, many_steps, one_step, returns
from dqlab.fidelity.sides import Array, Original, Side, Today

Say = Callable[[str], None]

ONE, MANY = 50, 100
"""Steps of the roll-outs whose states are compared after one step, and of those that are left to themselves."""

NUDGE = 1e-13
"""What the original is moved by to see how fast it runs away from itself."""


@dataclass(frozen=True)
class Row:
    """An environment in one stack, held against the original.

    Attributes:
        environment: D4RL's environment; `stepped_by`: backend and physics.
        one, many: errors after one step and along many; `one` is None for the original itself.
        returns: of the fixed policy, the original's and this one's; None likewise.
        missing: why there are no figures; empty where there are.
    """

    environment: str
    stepped_by: str
    one: Errors | None = None
    many: Errors | None = None
    returns: tuple[Array, Array] | None = None
    missing: str = ""


def environments() -> dict[str, Task]:
    """D4RL's environments that today's packages have too, with the first task of each."""
    found: dict[str, Task] = {}
    for entry in tasks:
        if entry.item.file:
            found.setdefault(entry.item.robot, entry.item)
    return found


def measure(task: Task, copies: int, say: Say) -> Iterator[Row]:
    """All rows of an environment: the original against itself, then today's with each physics that makes a difference.

    Args:
        task: whose environment.
        copies: roll-outs and episodes of each figure.
        say: is told what is measured.
    """
    with closing(Original(task, copies, noise=False)) as silent, closing(Original(task, copies)) as original:
        say(f"{task.robot}: d4rl against itself")
        with closing(Original(task, copies, noise=False)) as again:
            many = _free(silent, again, task, NUDGE)
        with closing(Original(task, copies)) as again:
            yield Row(task.robot, "d4rl, nudged", many=many, returns=_earned(task, original, again, NUDGE))
        for physics in laws_of(task):
            say(f"{task.robot}: gymnasium, {physics or 'its own model'}")
            yield _row(task, copies, silent, original, physics)


def laws_of(task: Task) -> list[str]:
    """Names of the physics laws that change this environment; an empty one where none does."""
    return physics_laws.names() if task.body is not None else [""]


def _row(task: Task, copies: int, silent: Side, original: Side, physics: str) -> Row:
    name, law = f"gymnasium, {physics}".rstrip(", "), physics or "mujoco210"
    try:
        with closing(Today(task, copies, False, law)) as today:
            one = one_step(silent, today, task.action_dim, ONE)
            many = _free(silent, today, task)
        with closing(Today(task, copies, True, law)) as today:
            return Row(task.robot, name, one, many, _earned(task, original, today))
    except ConfigError as error:
        return Row(task.robot, name, missing=str(error))


def _free(original: Side, other: Side, task: Task, nudge: float = 0.0) -> Errors:
    return many_steps(original, other, task.action_dim, MANY, nudge=nudge)


def _earned(task: Task, original: Side, other: Side, nudge: float = 0.0) -> tuple[Array, Array]:
    return returns(original, other, linear_policy(task.state_dim, task.action_dim), nudge=nudge)


def spread(values: Array) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.4g} +- {values.std():.2g}"
