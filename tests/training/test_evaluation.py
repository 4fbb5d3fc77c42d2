"""Evaluation: what is made ready and stepped how often, and whose a fault is.

Alone as packed: test_cells.py; repeated by `dqlab eval`: test_cli.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gin
import gymnasium
import numpy as np
import pytest
import torch
from conftest import SMALL

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.envs import tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.errors import EnvError, RunError
from dqlab.policies.base import Dims
from dqlab.training import Evaluator, Pack
from dqlab.training.evaluation import initial_seeds
from dqlab.training.execution.modes import Eager
from dqlab.training.execution.program import Program, RunProgram

HOPPER = tasks.get("hopper-medium-v2")
DIMS = Dims(HOPPER.state_dim, HOPPER.action_dim)


def pack(*seeds: int) -> Pack:
    gin.parse_config(SMALL)
    return Pack([DiffusionQL()] * len(seeds), DIMS, seeds, dtype=torch.float64)


def test_initial_states_differ_between_seeds_steps_and_episodes() -> None:
    assert len({seed for given in ((0, 0), (1, 0), (0, 1)) for seed in initial_seeds(*given, 10)}) == 30


@dataclass
class Told(Eager):
    """A mode of somebody's, which compares by its fields and has no hash."""

    programs: int = 0

    def __call__(self, program: Program) -> RunProgram:
        self.programs += 1
        return super().__call__(program)


def test_programs_are_made_ready_once_for_a_pack_and_a_mode() -> None:
    evaluator, own, modes = Evaluator(HOPPER, "mujoco210", 1), pack(5), (Told(), Told())
    for mode in (modes[0], *modes):
        evaluator.run(own, 0, mode)
    assert [mode.programs for mode in modes] == [1, 1]


def test_threads_step_as_one_would() -> None:
    """Four threads, 35 environments of which some end before others: the same states and rewards, bit by bit.

    An error in a thread is the caller's.
    """
    count, told = 35, []
    for threads in (1, 4):
        environments = GymnasiumEnvironments(HOPPER, "mujoco210")
        environments.threads = threads
        rng, live = np.random.default_rng(0), np.arange(count)
        seen = [environments.reset(range(count), [0] * count)]
        for _ in range(40):
            stepped = environments.step(live.tolist(), rng.uniform(-1, 1, (count, 3))[live])
            seen += [stepped.state, stepped.reward, live]
            live = live[~stepped.over]
        assert 0 < len(live) < count
        told.append(seen)
        environments.reset(range(count), [0] * count)
        with pytest.raises(EnvError, match=r"'Hopper-v4' takes actions of shape \(3,\), not \(2,\)"):
            environments.step(range(count), np.zeros((count, 2)))
        environments.close()
    assert all(np.array_equal(one, other) for one, other in zip(*told, strict=True))


class Frail(gymnasium.Env):
    """Ends after three steps, saying so by a number, with a reward in an array; breaks in the episode with a seed."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (11,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))
    seed, breaking = -1, ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time, self.breaks = 0, Frail.breaking if seed == Frail.seed else ""
        return np.full(11, np.nan if self.breaks == "start" else 0.0), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        second = self.breaks if self.time == 2 else ""
        reward = 1e308 if self.breaks == "sum" else np.nan if second == "reward" else 1.0
        return np.full(11, np.nan if second == "state" else 0.0), np.array([reward]), int(self.time == 3), 0, {}


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("start", "a NaN or infinite first observation, at step 0"),
        ("state", "a NaN or infinite observation, at step 2"),
        ("reward", "a NaN or infinite reward, at step 2"),
        ("sum", "a NaN or infinite reward, at step 2"),
    ],
)
def test_a_fault_is_of_its_own_episodes(breaks: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.register("dqlab-test/Frail-v0", Frail)
    monkeypatch.setattr(Frail, "breaking", breaks)
    monkeypatch.setattr(Frail, "seed", initial_seeds(6, 9, 2)[1])
    three = pack(5, 6, 7)
    evaluator = Evaluator(replace(HOPPER, env_id="dqlab-test/Frail-v0", body=None), "mujoco210", 2)
    episodes = evaluator.roll_out(three, 9, Eager(), range(3))
    told = f"the environment 'dqlab-test/Frail-v0' gives {said} of the episode with seed {Frail.seed}."
    assert [(each.fault, each.diverged) for each in episodes] == [("", False), (told, False), ("", False)]
    assert [each.returns.tolist() for each in (episodes[0], episodes[2])] == [[3.0, 3.0]] * 2
    with pytest.raises(RunError, match="The evaluation of seed 6 after 9 updates failed: the environment"):
        evaluator.run(three, 9)
