"""`dqlab fidelity`: what both stacks do from the same states, measured, and the Markdown page on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dqlab.envs import tasks
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.envs.physics import physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, RunError, nearest_of_few
from dqlab.files import write_text
from dqlab.machine import package_version
from dqlab.printing import markdown_table
from dqlab.runs.policy import load_policy
from dqlab.tools.fidelity.stacks import Array, D4RLStack, EnvironmentStack, GymnasiumStack, State, states_near_goals
from dqlab.tracking import RunFolder

Policy = Callable[[Array], Array]
"""Observations (n, S) -> actions (n, A)."""
Say = Callable[[str], None]
"""Is told what is measured."""
ONE, MANY = 50, 100
"""Steps of the roll-outs whose states are compared after one step, and of those that are left to themselves."""
NUDGE = 1e-13
"""What the original is moved by to see how fast it runs away from itself."""
PACKAGES = ("gymnasium", "mujoco", "gymnasium-robotics", "numpy")


def write_fidelity_page(out: Path, chosen: Sequence[str], runs: Sequence[Path], copies: int, say: Say) -> None:
    """Measure, and write the page.

    Args:
        out: the Markdown file.
        chosen: D4RL's environments; all that today's packages have, if empty.
        runs: folders of dqlab runs whose policies are evaluated in both stacks too.
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
    for run in runs:
        RunFolder(run).facts()
    known = shared_environments()
    for name in chosen:
        if name not in known:
            raise ConfigError(f"There is no environment '{name}'. {nearest_of_few(name, known)}")
    rows = [row for name in chosen or known for row in measure_environment(known[name], copies, say)]
    told = [score_in_both(run, copies, say) for run in runs]
    words = ["dqlab fidelity", *(["--robot", *chosen] if chosen else []), f"--episodes {copies}"]
    words += [f"--run {run}" for run in runs]
    write_text(out, fidelity_page(rows, told, copies, _versions(), " ".join([*words, f"--out {out}"])))


def _versions() -> str:
    worker = Worker(legacy_python())
    original = ", ".join(f"{name} {number}" for name, number in worker.versions.items())
    worker.close()
    return f"original: {original}; today: {', '.join(f'{name} {package_version(name)}' for name in PACKAGES)}"


@dataclass(frozen=True)
class StackErrors:
    """Largest absolute differences per compared state or roll-out.

    Attributes:
        state (m,): of positions and velocities; `observation` (m,), `reward` (m,) likewise.
        terminations: in how many the two disagree on the end of the episode.
    """

    state: Array
    observation: Array
    reward: Array
    terminations: int


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
    policy = linear_policy(task.state_dim, task.action_dim)
    with closing(D4RLStack(task, copies, noise=False)) as silent, closing(D4RLStack(task, copies)) as original:
        say(f"{task.robot}: d4rl against itself")
        with closing(D4RLStack(task, copies, noise=False)) as again:
            many = many_steps(silent, again, task.action_dim, MANY, nudge=NUDGE)
        with closing(D4RLStack(task, copies)) as again:
            returns = returns_in_both(original, again, policy, NUDGE)
        yield FidelityRow(task.robot, "d4rl, nudged", many=many, returns=returns)
        for law in _laws_of(task):
            name = ", ".join(["gymnasium", *law])
            say(f"{task.robot}: gymnasium, {''.join(law) or 'its own model'}")
            try:
                with closing(GymnasiumStack(task, copies, False, *law)) as today:
                    one = one_step(silent, today, task.action_dim, ONE)
                    many = many_steps(silent, today, task.action_dim, MANY)
                with closing(GymnasiumStack(task, copies, True, *law)) as today:
                    yield FidelityRow(task.robot, name, one, many, returns_in_both(original, today, policy))
            except ConfigError as error:
                yield FidelityRow(task.robot, name, missing=str(error))


def _laws_of(task: Task) -> list[list[str]]:
    """The physics laws to measure with, each as what follows a backend's name; none where none makes a difference."""
    return [[name] for name in physics_laws.names()] if task.body is not None else [[]]


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
        np.abs(original.physical() - today.physical()).max(axis=1),
        np.abs(one.observation - other.observation).max(axis=1),
        np.abs(one.reward - other.reward),
    )
    return np.array(differences), one.terminated, int((one.terminated != other.terminated).sum())


def score_in_both(path: Path, episodes: int, say: Say) -> str:
    """A Markdown table of the D4RL scores of a run's last checkpoint, its first replica, in both stacks.

    Raises:
        RunError: there is no such run, or it has no checkpoint.
    """
    folder = RunFolder(path)
    facts, replica = folder.facts(), folder.replicas()[0]
    kept = sorted((folder.replica(replica.name) / "checkpoints").glob("step-*.safetensors"))
    if not kept:
        raise RunError(f"{path} has no checkpoint of {replica.title} yet.")
    task = load_policy(kept[-1]).task
    ways = [["d4rl"], *(["gymnasium", *law] for law in _laws_of(task))]
    scores: list[Array] = []
    for way in ways:
        say(f"{path}: {', '.join(way)}")
        chosen = dict(zip(("Experiment.env_backend", "Experiment.physics"), way, strict=False))
        scores.append(np.asarray(task.score(load_policy(kept[-1], set=chosen).evaluate(episodes).returns)))
    cells = [
        [", ".join(way), str(len(each)), mean_and_std(each), mean_and_std(each - scores[0])]
        for way, each in zip(ways, scores, strict=True)
    ]
    table = markdown_table(("stepped by", "episodes", "D4RL score", "paired difference"), cells)
    return f"**The policy of a run on {facts['task']} ({kept[-1].stem})**\n\n{table}"


STATES = (
    "environment",
    "stepped by",
    "one step: median",
    "maximum",
    f"{MANY} steps: median",
    "maximum",
    "reward, one step",
    "ends that differ",
)
RETURNS = ("environment", "stepped by", "episodes", "d4rl", "this", "paired difference", "largest")


def fidelity_page(rows: Sequence[FidelityRow], runs: Sequence[str], copies: int, versions: str, command: str) -> str:
    """Markdown.

    Args:
        rows: what was measured.
        runs: a paragraph or table on each dqlab run that was evaluated in both.
        copies: roll-outs and episodes of each figure.
        versions: of what was stepped, in words.
        command: that made this page.
    """
    template = (files("dqlab.tools.fidelity") / "page.md").read_text()
    missing = [f"Not measured: {row.environment}, {row.stepped_by}: {row.missing}" for row in rows if row.missing]
    return template.format(
        command=command,
        date=date.today().isoformat(),
        versions=versions,
        copies=copies,
        one=ONE,
        states=copies * ONE,
        many=MANY,
        nudge=f"{NUDGE:g}",
        errors=markdown_table(STATES, [_error_cells(row) for row in rows if not row.missing]),
        returns=markdown_table(RETURNS, [_return_cells(row, *row.returns) for row in rows if row.returns]),
        more="".join(f"{paragraph}\n\n" for paragraph in [*missing, *runs]),
    )


def _error_cells(row: FidelityRow) -> list[str]:
    errors = (row.one, row.many)
    one, many = ([_short(np.median(each.state)), _short(each.state.max())] if each else ["-", "-"] for each in errors)
    differ = str(sum(each.terminations for each in errors if each)) if row.one else "-"
    return [row.environment, row.stepped_by, *one, *many, _short(row.one.reward.max()) if row.one else "-", differ]


def _return_cells(row: FidelityRow, theirs: Array, ours: Array) -> list[str]:
    apart = ours - theirs
    figures = [mean_and_std(values) for values in (theirs, ours, apart)]
    return [row.environment, row.stepped_by, str(len(ours)), *figures, _short(np.abs(apart).max())]


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def mean_and_std(values: Array) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.4g} +- {values.std():.2g}"
