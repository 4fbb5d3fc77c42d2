"""What today's environments and D4RL's own do from the same states, measured, and docs/fidelity.md: `make fidelity`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from both_stacks import (
    Array,
    D4RLStack,
    EnvironmentStack,
    GymnasiumStack,
    State,
    physical,
    states_near_goals,
)
from numpy.typing import NDArray

from dqlab.envs import tasks
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DqlabError, message_of, nearest_of_few
from dqlab.files import write_text
from dqlab.machine import package_version
from dqlab.printing import markdown_table

Policy = Callable[[Array], Array]
"""Observations (n, S) -> actions (n, A)."""
ONE, MANY = 50, 100
"""Steps of the roll-outs whose states are compared after one step, and of those that are left to themselves."""
NUDGE = 1e-13
"""What the original is moved by to see how fast it runs away from itself."""
PACKAGES = ("gymnasium", "mujoco", "gymnasium-robotics", "numpy")
ERRORS = (
    *("environment", "stepped by", "one step: median", "maximum", f"{MANY} steps: median", "maximum"),
    *("reward, one step", "ends that differ"),
)
RETURNS = ("environment", "stepped by", "episodes", "d4rl", "this", "paired difference", "largest")


def write_fidelity_page(out: Path, chosen: Sequence[str], copies: int, say: Callable[[str], None]) -> None:
    """Measure, and write the page.

    Args:
        out: the Markdown file.
        chosen: D4RL's environments; all that today's packages have, if empty.
        copies: roll-outs and episodes of each figure.
        say: is told what is measured.

    Raises:
        ConfigError: the original stack is not installed, or there is no such environment.
    """
    legacy_python()
    if copies < 1:
        raise ConfigError(f"--episodes must be at least 1, not {copies}.")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name a file.")
    known = shared_environments()
    for name in chosen:
        if name not in known:
            raise ConfigError(f"There is no environment '{name}'. {nearest_of_few(name, known)}")
    tables = FidelityTables([], [], [])
    for name in chosen or known:
        measure_environment(known[name], copies, tables, say)
    words = [
        "python scripts/fidelity.py",
        *(["--robot", *chosen] if chosen else []),
        f"--episodes {copies} --out {out}",
    ]
    template = Path(__file__).with_name("fidelity_page.md").read_text()
    page = template.format(
        command=" ".join(words),
        date=date.today().isoformat(),
        versions=_versions(),
        copies=copies,
        one=ONE,
        states=copies * ONE,
        many=MANY,
        nudge=f"{NUDGE:g}",
        errors=markdown_table(ERRORS, tables.errors),
        returns=markdown_table(RETURNS, tables.returns),
        more="".join(f"{paragraph}\n\n" for paragraph in tables.missing),
    )
    write_text(out, page)


def _versions() -> str:
    with closing(Worker(legacy_python())) as worker:
        original = ", ".join(f"{name} {number}" for name, number in worker.versions.items())
    return f"original: {original}; today: {', '.join(f'{name} {package_version(name)}' for name in PACKAGES)}"


class FidelityTables(NamedTuple):
    """Cells of both tables, row by row, and paragraphs on what could not be measured."""

    errors: list[list[str]]
    returns: list[list[str]]
    missing: list[str]

    def add(self, names: list[str], one: StackErrors | None, many: StackErrors, returns: tuple[Array, Array]) -> None:
        """Add an environment in one stack, held against the original.

        Args:
            names: D4RL's environment; backend and physics.
            one, many: errors after one step and along many; `one` is None for the original itself.
            returns: of the fixed policy, the original's and this one's.
        """
        sizes = [
            [_short(np.median(each.state)), _short(each.state.max())] if each else ["-", "-"] for each in (one, many)
        ]
        last = [_short(one.reward.max()), str(one.terminations + many.terminations)] if one else ["-", "-"]
        self.errors.append([*names, *sizes[0], *sizes[1], *last])
        theirs, ours = returns
        figures = [f"{values.mean():.4g} +- {values.std():.2g}" for values in (theirs, ours, ours - theirs)]
        self.returns.append([*names, str(len(ours)), *figures, _short(np.abs(ours - theirs).max())])


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


class StackErrors(NamedTuple):
    """Largest absolute differences per compared state or roll-out.

    Attributes:
        state (m,): of positions and velocities; `observation` (m,), `reward` (m,) likewise.
        terminations: in how many the two disagree on the end of the episode.
    """

    state: Array
    observation: Array
    reward: Array
    terminations: int


def shared_environments() -> dict[str, Task]:
    """D4RL's environments that today's packages have too, with the first task of each.

    AntMaze's -v2 differs from its -v0 only in when it draws goals, which is not measured.
    """
    found: dict[str, Task] = {}
    for entry in tasks:
        if entry.item.file and "goal_law" not in entry.item.env_kwargs:
            found.setdefault(entry.item.robot, entry.item)
    return found


def measure_environment(task: Task, copies: int, tables: FidelityTables, say: Callable[[str], None]) -> None:
    """Add all rows of an environment: the original against itself, then today's with each physics that differs.

    Args:
        task: whose environment.
        copies: roll-outs and episodes of each figure.
        tables: where the rows go.
        say: is told what is measured.
    """
    policy = linear_policy(task.state_dim, task.action_dim)
    laws = [[name] for name in physics_laws.names()] if task.body is not None else [[]]
    with closing(D4RLStack(task, copies, noise=False)) as silent, closing(D4RLStack(task, copies)) as original:
        say(f"{task.robot}: d4rl against itself")
        with closing(D4RLStack(task, copies, noise=False)) as again:
            many = many_steps(silent, again, task.action_dim, MANY, nudge=NUDGE)
        with closing(D4RLStack(task, copies)) as again:
            returns = returns_in_both(original, again, policy, NUDGE)
        tables.add([task.robot, "d4rl, nudged"], None, many, returns)
        for law in laws:
            name = ", ".join(["gymnasium", *law])
            say(f"{task.robot}: {name}")
            try:
                with closing(GymnasiumStack(task, copies, False, *law)) as today:
                    one = one_step(silent, today, task.action_dim, ONE)
                    many = many_steps(silent, today, task.action_dim, MANY)
                with closing(GymnasiumStack(task, copies, True, *law)) as today:
                    tables.add([task.robot, name], one, many, returns_in_both(original, today, policy))
            except ConfigError as error:
                tables.missing.append(f"Not measured: {task.robot}, {name}: {error}")


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
    states, errors, disagreements = begun, [], 0
    for _ in range(steps):
        original.set_states(states)
        today.set_states(states)
        error, ended, differ = _step_both(original, today, draw.uniform(-1.0, 1.0, (len(states), action_dim)))
        errors.append(error)
        disagreements += differ
        following = zip(begun, ended, original.states(), strict=True)
        states = [start if over else state for start, over, state in following]
    state, observation, reward = np.concatenate(errors, axis=1)
    return StackErrors(state, observation, reward, disagreements)


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
    other.set_states(_nudged(states, nudge, draw))
    actions = draw.uniform(-scale, scale, (steps, len(states), action_dim))
    errors, _, disagreements = zip(*(_step_both(original, other, each) for each in actions), strict=True)
    state, observation, reward = np.max(errors, axis=0)
    return StackErrors(state, observation, reward, sum(disagreements))


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
    begun = other.set_states(_nudged(states, nudge, draw))
    return _roll(original, original.set_states(states), policy), _roll(other, begun, policy)


def _begin(original: EnvironmentStack, seed: int) -> list[State]:
    original.reset(_seeds(len(original.states()), seed))
    return original.states()


def _seeds(count: int, seed: int) -> list[int]:
    return [int(number) for number in np.random.SeedSequence([seed, count]).generate_state(count)]


def _nudged(states: Sequence[State], nudge: float, draw: np.random.Generator) -> list[State]:
    moved = [np.array(state["qpos"]) + nudge * draw.normal(size=len(state["qpos"])) for state in states]
    return [{**state, "qpos": qpos.tolist()} for state, qpos in zip(states, moved, strict=True)]


def _roll(stack: EnvironmentStack, observations: Array, policy: Policy) -> Array:
    total, live = np.zeros(len(observations)), np.ones(len(observations), dtype=bool)
    while live.any():
        stepped = stack.step(policy(observations))
        total += np.where(live, stepped.reward, 0.0)
        live, observations = live & ~stepped.over, stepped.observation
    return total


def _step_both(
    original: EnvironmentStack, today: EnvironmentStack, actions: Array
) -> tuple[Array, NDArray[np.bool_], int]:
    """Differences (3, n) of state, observation and reward; where the original's episode ended; disagreements."""
    one, other = original.step(actions), today.step(actions)
    differences = (
        np.abs(physical(original.states()) - physical(today.states())).max(axis=1),
        np.abs(one.observation - other.observation).max(axis=1),
        np.abs(one.reward - other.reward),
    )
    return np.array(differences), one.terminated, int((one.terminated != other.terminated).sum())


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fidelity.md"), help="the page; fidelity.md by default")
    parser.add_argument("--robot", nargs="+", default=[], metavar="NAME", help="these of D4RL's environments; all")
    parser.add_argument("--episodes", type=int, default=10, help="roll-outs and episodes of each figure; 10 by default")
    args = parser.parse_args()
    try:
        write_fidelity_page(args.out, args.robot, args.episodes, print)
    except DqlabError as error:
        print(f"fidelity.py: error: {message_of(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
