"""Evaluation: repeatable, the same alone as packed, seeded by the run's seed + 100, held against a plain loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.envs import tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.errors import EnvError, RunError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies.base import Dims
from dqlab.policies.diffusion import DiffusionPolicy
from dqlab.policies.selection import SoftmaxQ
from dqlab.training import Evaluator, Pack
from dqlab.training.evaluation import initial_seeds
from dqlab.training.execution.modes import Eager
from dqlab.training.execution.program import Program, RunProgram

HOPPER = tasks.get("hopper-medium-v2")
DIMS = Dims(HOPPER.state_dim, HOPPER.action_dim)


def pack(seeds: list[int]) -> Pack:
    policy = partial(DiffusionPolicy, n_timesteps=2, denoiser=partial(MLPDenoiser, hidden_dim=16))
    algorithm = DiffusionQL(policy=policy, selection=partial(SoftmaxQ, n_candidates=4))
    return Pack([algorithm] * len(seeds), DIMS, seeds, dtype=torch.float64)


def test_each_replica_gives_what_it_gives_alone_and_again() -> None:
    together = Evaluator(HOPPER, "mujoco210", 3).run(pack([5, 6]), 1000)
    for row, seed in enumerate((5, 6)):
        evaluator = Evaluator(HOPPER, "mujoco210", 3)
        for _ in range(2):
            alone = evaluator.run(pack([seed]), 1000)[0]
            assert np.allclose(alone.returns, together[row].returns, rtol=1e-9)
            assert alone.lengths.tolist() == together[row].lengths.tolist()
    assert not np.allclose(together[0].returns, together[1].returns)


@dataclass
class Told(Eager):
    """A mode of somebody's, which compares by its fields and has no hash."""

    programs: int = 0

    def __call__(self, program: Program) -> RunProgram:
        self.programs += 1
        return super().__call__(program)


def test_programs_are_made_ready_once_for_a_pack_and_a_mode() -> None:
    evaluator, own, mode, other = Evaluator(HOPPER, "mujoco210", 1), pack([5]), Told(), Told()
    for _ in range(2):
        evaluator.run(own, 0, mode)
    assert mode.programs == 1
    evaluator.run(own, 0, other)
    assert other.programs == 1


@pytest.mark.parametrize("name", [entry.name for entry in tasks if entry.item.parallel and "medium-v2" in entry.name])
def test_threads_step_as_one_would(name: str) -> None:
    """Four threads, 35 environments of which some end before others: the same states and rewards, bit by bit."""
    task, count, told = tasks.get(name), 35, []
    for threads in (1, 4):
        environments = GymnasiumEnvironments(task, "mujoco210")
        environments.threads = threads
        rng, live = np.random.default_rng(0), np.arange(count)
        seen = [environments.reset(range(count), [0] * count)]
        for _ in range(40):
            actions = rng.uniform(-1, 1, (count, task.action_dim))
            stepped = environments.step(live.tolist(), actions[live])
            seen += [stepped.state, stepped.reward, live]
            live = live[~stepped.over]
            if not len(live):
                break
        told.append(seen)
        environments.close()
    assert all(np.array_equal(one, other) for one, other in zip(*told, strict=True))


def test_an_error_in_a_thread_is_the_callers() -> None:
    environments = GymnasiumEnvironments(HOPPER, "mujoco210")
    environments.threads = 3
    environments.reset(range(25), [0] * 25)
    with pytest.raises(EnvError, match=r"'Hopper-v4' takes actions of shape \(3,\), not \(2,\)"):
        environments.step(range(25), np.zeros((25, 2)))
    environments.close()


def test_initial_states_differ_between_seeds_steps_and_episodes() -> None:
    seeds = initial_seeds(0, 0, 10)
    assert len(set(seeds)) == 10
    assert seeds != initial_seeds(1, 0, 10)
    assert seeds != initial_seeds(0, 1, 10)
    assert seeds == initial_seeds(0, 0, 10)


class Odd(gymnasium.Env):
    """Ends after three steps, saying so by a number, with a reward in an array."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (11,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return np.zeros(11), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.zeros(11), np.array([1.0]), int(self.time == 3), 0, {}


class Frail(Odd):
    """Breaks where a test wants it to, in the episode with a certain seed."""

    seed, breaks = -1, ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.broken = seed == Frail.seed
        state, info = super().reset(seed=seed)
        return (state + np.nan if self.broken and Frail.breaks == "start" else state), info

    def step(self, action: Any) -> Any:
        state, reward, *ends = super().step(action)
        broken = self.broken and self.time == 2
        huge = 1e308 if self.broken and Frail.breaks == "sum" else 1.0
        nan = np.nan if broken else 0.0
        return (
            (state + nan if Frail.breaks == "state" else state),
            (huge * reward + nan if Frail.breaks == "reward" else huge * reward),
            *ends,
        )


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("start", "a NaN or infinite first observation, at step 0"),
        ("state", "a NaN or infinite observation, at step 2"),
        ("reward", "a NaN or infinite reward, at step 2"),
        ("sum", "a NaN or infinite reward, at step 2"),
    ],
)
def test_what_an_environment_gives_to_one_replica_is_a_fault_of_its_own_episodes(
    breaks: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gymnasium.register("dqlab-test/Frail-v0", Frail)
    task = replace(HOPPER, env_id="dqlab-test/Frail-v0", body=None)
    monkeypatch.setattr(Frail, "breaks", breaks)
    monkeypatch.setattr(Frail, "seed", initial_seeds(6, 9, 2)[1])
    three, evaluator = pack([5, 6, 7]), Evaluator(task, "mujoco210", 2)
    episodes = evaluator.roll_out(three, 9, Eager(), range(3))
    assert [bool(each.fault) for each in episodes] == [False, True, False]
    assert [each.returns.tolist() for each in (episodes[0], episodes[2])] == [[3.0, 3.0]] * 2
    assert not episodes[1].diverged
    assert episodes[1].fault == (
        f"the environment 'dqlab-test/Frail-v0' gives {said} of the episode with seed {Frail.seed}."
    )
    with pytest.raises(RunError, match="The evaluation of seed 6 after 9 updates failed: the environment"):
        evaluator.run(three, 9)
