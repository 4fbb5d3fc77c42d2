"""An evaluation: ten episodes of walker2d in real MuJoCo, all stepped together, 50 candidate actions a state.

Against the baseline's episodes, one after the other with one state a call. An untrained policy would fall after some
twenty steps, at another one in each; so no episode ends by falling here, and all have 100 steps: both roll out 1000
steps of the same physics. `per second` counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
from baseline import Agent, evaluate
from subjects import DIMS, devices, modes, new_mode, new_pack, synchronizer

from dqlab.envs import make_env, tasks
from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.tasks import Task
from dqlab.training import Evaluator

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

STEPS = 100


@dataclass(frozen=True)
class Case:
    episodes: int
    mode: str
    device: str

    @property
    def id(self) -> str:
        return f"E{self.episodes}-{self.mode}-{self.device}"


def cases(quick: bool) -> list[Case]:
    found = [Case(10, mode, device) for device in devices() for mode in modes(device)]
    return [case for case in found if case.mode == "eager"] if quick else found


def endless(env: Any) -> Any:
    """The environment, in which nobody falls."""
    assert env.unwrapped._terminate_when_unhealthy is True
    env.unwrapped._terminate_when_unhealthy = False
    return env


def short_walk() -> Task:
    return replace(tasks.get("walker2d-medium-expert-v2"), episode_limit=STEPS)


def new_evaluator(episodes: int, threads: int | None = None) -> Evaluator:
    """Of endless walks; `threads` step them, by default as many as there are cores."""
    evaluator = Evaluator(short_walk(), "mujoco210", episodes)
    environments = GymnasiumEnvironments(short_walk(), "mujoco210")
    environments.threads = threads or environments.threads
    environments.prepare(episodes)
    for env in environments.envs:
        endless(env)
    evaluator.environments = environments
    return evaluator


@pytest.mark.parametrize("episodes", [10, 80])
def test_threads(measure: Callable[..., Any], episodes: int) -> None:
    """Environments stepped by a thread a core, against one after the other: whole evaluations, eager, on the CPU."""
    pack, mode = new_pack(1, "cpu"), new_mode("eager")
    several, one = new_evaluator(episodes), new_evaluator(episodes, threads=1)
    found = [evaluator.run(pack, 0, mode)[0].returns for evaluator in (several, one)]
    assert (found[0] == found[1]).all()
    measure(
        lambda: several.run(pack, 0, mode),
        baseline=lambda: one.run(pack, 0, mode),
        parameters={"part": "threads", "episodes": episodes, "env_threads": several.environments.threads},
        work=episodes * STEPS,
    )


def test_evaluation(measure: Callable[..., Any], case: Case) -> None:
    evaluator, mode = new_evaluator(case.episodes), new_mode(case.mode)
    pack, agent = new_pack(1, case.device), Agent(DIMS.state, DIMS.action, case.device)
    alone = endless(make_env(short_walk()))
    (episodes,) = evaluator.run(pack, 0, mode)
    assert (episodes.lengths == STEPS).all()
    measure(
        lambda: evaluator.run(pack, 0, mode),
        baseline=lambda: evaluate(agent, alone, case.episodes),
        parameters={"part": "evaluation", **asdict(case)},
        work=case.episodes * STEPS,
        synchronize=synchronizer(case.device),
    )
