"""Both stacks on every task that D4RL has and today's packages can build: same states, rewards, ends, returns.

And the backend `d4rl` in evaluations: what the other one gives, from the command line too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from both_stacks import STATES, D4RLStack, EnvironmentStack, GymnasiumStack, State, physical, state_of
from conftest import ROOT, Run, bindings, isolated
from fidelity import linear_policy, many_steps, one_step, returns_in_both, shared_environments
from scipy.stats import ks_2samp

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.envs import make_env, tasks
from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import SoftmaxQ
from dqlab.training import Evaluator, Pack

pytestmark = pytest.mark.legacy

ENVIRONMENTS = shared_environments()
EXACT = 1e-9
STEP = {"door": 1e-5, "hammer": 1e-8}
"""After one step: a finger that digs into the latch (docs/fidelity.md); sizes of geoms that are fitted to meshes."""
FREE = {"pen": 1e-6, "ant": 1e-3, "door": 1e-5, "hammer": 1e-6}
"""The pen, thrown about in a hand, remembers a nudge of 1e-13 as 1e-8 to 1e-7 after 100 steps, an ant as up to 0.2."""
MEDIAN = {"ant": 1e-6, "hammer": 1e-8}
SLOW = {name for name in ENVIRONMENTS if name.startswith("kitchen")}
CHAOTIC = ("ant", "halfcheetah")
"""Where a difference of 1e-13 decides on a return within its 1000 steps."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with closing(Worker(legacy_python(), program=STATES)) as made:
        yield made


@pytest.mark.parametrize("name", [entry.name for entry in tasks if entry.item.file])
def test_every_task_begins_alike(worker: Worker, name: str) -> None:
    """Sizes, limits, and from the same seed and group the same first observation and hidden state.

    Where AntMaze draws a goal in each episode, the two draw it from different generators.
    """
    task = tasks.get(name)
    facts = worker.ask("make", task=name, count=1)
    for size in ("state_dim", "action_dim", "episode_limit"):
        assert facts[size] == getattr(task, size)
    env = make_env(task)
    for seed, group in ((3, 11), (4, 12)):
        theirs = worker.ask("reset", seeds=[seed], groups=[group])["observations"][0]
        ours, _ = env.reset(seed=seed, options={"group": group})
        assert np.abs(ours - theirs).max() < 1e-12
        state, original = state_of(env), worker.ask("get_state", which=[0])["states"][0]
        assert set(state) == set(original)
        assert state.get("remaining") == original.get("remaining")
        apart = {"remaining"} | ({"goal"} if task.env_kwargs.get("goal_law") else set())
        for part in set(state) - apart:
            assert np.abs(np.subtract(state[part], original[part])).max() < 1e-12, part


@pytest.fixture(scope="module", params=list(ENVIRONMENTS))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, D4RLStack, GymnasiumStack]]:
    """An environment in both stacks, without the kitchen's noise."""
    task, copies = ENVIRONMENTS[request.param], 2 if request.param in SLOW else 6
    with (
        closing(D4RLStack(task, copies, noise=False)) as original,
        closing(GymnasiumStack(task, copies, noise=False)) as today,
    ):
        yield request.param, original, today


def test_a_hundred_steps(pair: tuple[str, D4RLStack, GymnasiumStack]) -> None:
    """Left to themselves from the same initial states, under actions in [-0.3, 0.3]."""
    name, original, today = pair
    errors = many_steps(original, today, ENVIRONMENTS[name].action_dim, 100, scale=0.3)
    assert errors.state.max() < FREE.get(name, EXACT)
    assert np.median(errors.state) < MEDIAN.get(name, EXACT)
    assert errors.reward.max() < FREE.get(name, EXACT)
    assert errors.terminations == 0


def test_every_single_step(pair: tuple[str, D4RLStack, GymnasiumStack]) -> None:
    """From each state of roll-outs under actions in [-1, 1]."""
    name, original, today = pair
    errors = one_step(original, today, ENVIRONMENTS[name].action_dim, 20 if name in SLOW else 60)
    for each in (errors.state, errors.observation, errors.reward):
        assert each.max() < STEP.get(name, EXACT)
    assert errors.terminations == 0


def fallen(states: list[State]) -> list[State]:
    """A runner in the air, turned by any angle, about to hit the ground with any part."""
    draw = np.random.default_rng(0)

    def turned(state: State) -> State:
        qpos = np.array(state["qpos"]) + draw.normal(size=len(state["qpos"])) * 0.2
        qpos[2] = draw.uniform(-np.pi, np.pi)
        return {**state, "qpos": qpos.tolist()}

    return [turned(state) for state in states]


@pytest.mark.parametrize("name", ["walker2d", "hopper", "halfcheetah"])
def test_whatever_hits_the_ground(name: str) -> None:
    """60 steps of a fall, each from the original's state."""
    task, draw = ENVIRONMENTS[name], np.random.default_rng(1)
    with closing(D4RLStack(task, 16)) as original, closing(GymnasiumStack(task, 16)) as today:
        original.reset(range(16))
        states = fallen(original.states())
        for _ in range(60):
            original.set_states(states)
            today.set_states(states)
            actions = draw.uniform(-1, 1, (16, task.action_dim))
            original.step(actions)
            today.step(actions)
            assert np.abs(physical(original.states()) - physical(today.states())).max() < EXACT
            states = original.states()


@pytest.mark.parametrize("name", sorted(set(ENVIRONMENTS) - set(CHAOTIC)))
def test_a_policy_earns_the_same(name: str) -> None:
    """Whole episodes from the same initial states, with the kitchen's noise; near the goals of sparse rewards.

    One of AntMaze's and the door's four may differ: an ant on its back and a finger that digs into the latch differ by
    1e-7 a step, and episodes have up to 1000.
    """
    task = ENVIRONMENTS[name]
    copies = 2 if name in SLOW else 6 if name.startswith("maze2d") else 4
    with closing(D4RLStack(task, copies)) as original, closing(GymnasiumStack(task, copies)) as today:
        theirs, ours = returns_in_both(original, today, linear_policy(task.state_dim, task.action_dim))
    assert np.abs(theirs).max() > 0
    differ = np.abs(ours - theirs) > 1e-6 * max(1.0, np.abs(theirs).max())
    assert differ.sum() <= name.startswith(("antmaze", "door"))


def test_v2_draws_a_goal_in_each_episode(worker: Worker) -> None:
    """-v0 has one for a group of episodes."""
    goals = {}
    for version in ("v0", "v2"):
        worker.ask("make", task=f"antmaze-umaze-{version}", count=3)
        worker.ask("reset", seeds=[1, 2, 2], groups=[7, 7, 7])
        goals[version] = [tuple(state["goal"]) for state in worker.ask("get_state", which=[0, 1, 2])["states"]]
    assert len(set(goals["v0"])) == 1
    assert goals["v2"][0] != goals["v2"][1] == goals["v2"][2]


def test_the_cheetah_earns_the_same_on_average() -> None:
    """32 pairs of returns: the interval of 99.9% of their mean difference holds 0 and is narrower than +- 15%;
    a Kolmogorov-Smirnov test does not tell the two samples apart."""
    task, copies = ENVIRONMENTS["halfcheetah"], 32
    with closing(D4RLStack(task, copies)) as original, closing(GymnasiumStack(task, copies)) as today:
        theirs, ours = returns_in_both(original, today, linear_policy(task.state_dim, task.action_dim))
    apart = ours - theirs
    half_width = 3.3 * apart.std(ddof=1) / np.sqrt(copies)
    assert half_width < 0.15 * abs(theirs.mean())
    assert abs(apart.mean()) < half_width
    assert ks_2samp(theirs, ours).pvalue > 1e-3


@pytest.mark.parametrize("name", CHAOTIC)
def test_it_runs_away_from_itself_no_slower(name: str) -> None:
    """Under actions in [-1, 1], 100 steps part the two stacks less than 1e-13 parts the original from itself."""
    task = ENVIRONMENTS[name]

    def median_error(original: EnvironmentStack, other: EnvironmentStack, nudge: float) -> float:
        return float(np.median(many_steps(original, other, task.action_dim, 100, nudge=nudge).state))

    with (
        closing(D4RLStack(task, 16)) as original,
        closing(D4RLStack(task, 16)) as again,
        closing(GymnasiumStack(task, 16)) as today,
    ):
        assert median_error(original, today, 0.0) < median_error(original, again, 1e-13)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "pen-human-v1"])
def test_an_evaluation_gives_the_same_in_both(name: str) -> None:
    """Same seeds, hence same initial states, in both; two replicas together."""
    task = tasks.get(name)
    policy = partial(DiffusionPolicy, n_timesteps=2, denoiser=partial(MLPDenoiser, hidden_dim=16))
    algorithm = DiffusionQL(policy=policy, selection=partial(SoftmaxQ, n_candidates=4))
    pack = Pack([algorithm] * 2, Dims(task.state_dim, task.action_dim), [5, 6], dtype=torch.float64)
    today = Evaluator(task, "mujoco210", 3).run(pack, 1000)
    evaluator = Evaluator(task, "mujoco210", 3, "d4rl")
    original = evaluator.run(pack, 1000)
    evaluator.environments.close()
    for ours, theirs in zip(today, original, strict=True):
        assert ours.lengths.tolist() == theirs.lengths.tolist()
        assert np.allclose(ours.returns, theirs.returns, rtol=1e-6)


def test_a_run_is_trained_and_evaluated_with_it(dqlab: Run, tmp_path: Path) -> None:
    chosen = bindings("Experiment.env_backend='d4rl'")
    trained = dqlab("train", "--gin", "gin/quickstart.gin", "--steps", "20", "--out", "run", "-q", *chosen)
    assert trained.returncode == 0, trained.stderr
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["env_backend"], facts["physics"]) == ("d4rl", "MuJoCo 2.1.0")
    tables = [dqlab("eval", "run", "--env-backend", name).stdout for name in ("d4rl", "gymnasium")]
    assert "physics MuJoCo 2.1.0" in tables[0]
    assert "physics mujoco210" in tables[1]
    figures = [[line for line in table.splitlines() if "seed" in line] for table in tables]
    assert figures[0] == figures[1] != []


def make_page(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "fidelity.py"), *args]
    return subprocess.run(command, cwd=folder, env=isolated(folder), capture_output=True, text=True, timeout=500)


def test_the_page_of_one_environment(tmp_path: Path) -> None:
    """`make fidelity`: it says what was measured, of both stacks."""
    done = make_page(tmp_path, "--robot", "hopper", "--episodes", "2", "--out", "page.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| hopper")]
    lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    errors, earned = ({cells[1]: cells for cells in some} for some in (lines[:3], lines[3:]))
    assert float(errors["gymnasium, mujoco210"][3]) < 1e-12
    assert float(errors["gymnasium, modern"][3]) > 1e-3
    assert float(earned["gymnasium, mujoco210"][-1]) < 1e-9
    assert "mujoco 2.1.0" in text
    unknown = make_page(tmp_path, "--robot", "hoper", "--out", "other.md")
    assert (unknown.returncode, "Did you mean 'hopper'" in unknown.stderr) == (2, True)
