"""One training step: K replicas of Diffusion-QL, a batch of 256 each, N = 5, with the batch's gathering and the noise.

Against K updates of the baseline, one after the other, as K runs of it would be: the ratio is one replica's. `per
second` counts replica updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
from baseline import Agent, HostData
from subjects import DIMS, as_transitions, devices, made_fields, modes, new_mode, new_pack, synchronizer, update_flops

from dqlab.training.programs import Step

Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    replicas: int
    batch: int
    mode: str
    device: str
    precision: str = "float32"

    @property
    def id(self) -> str:
        return f"K{self.replicas}-{self.mode}-{self.device}"


def cases(quick: bool) -> list[Case]:
    replicas = (1, 4) if quick else (1, 4, 16, 64)
    return [Case(k, 256, mode, device) for device in devices() for mode in modes(device) for k in replicas]


@pytest.fixture(scope="module")
def fields(rows: int) -> Fields:
    return made_fields(rows)


def test_update(measure: Callable[..., Any], case: Case, fields: Fields) -> None:
    pack = new_pack(case.replicas, case.device)
    data = as_transitions(fields).to(case.device, pack.dtype)
    step = Step(pack, data, case.batch, new_mode(case.mode))
    agent, on_host = Agent(DIMS.state, DIMS.action, case.device), HostData(fields, case.device)

    def baseline() -> None:
        for _ in range(case.replicas):
            agent.update(on_host, case.batch)

    measure(
        step,
        baseline,
        parameters={"part": "update", **asdict(case)},
        work=case.replicas,
        flops=case.replicas * update_flops(case.batch),
        synchronize=synchronizer(case.device),
    )
