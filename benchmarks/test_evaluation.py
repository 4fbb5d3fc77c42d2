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

from dqlab.envs.backend import GymnasiumEnvironments
from dqlab.envs.making import make_env
from dqlab.envs.tasks import Task, tasks
from dqlab.evaluation import Evaluator

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


def test_evaluation(measure: Callable[..., Any], case: Case) -> None:
    evaluator, mode = Evaluator(short_walk(), "mujoco210", case.episodes), new_mode(case.mode)
    environments = GymnasiumEnvironments(short_walk(), "mujoco210")
    environments.prepare(case.episodes)
    for env in environments.envs:
        endless(env)
    evaluator.environments = environments
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
