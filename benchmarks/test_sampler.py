"""The sampler alone: one call gives actions for a batch of states, its noise included, without autograd.

Against the baseline's `Diffusion.sample` with as many steps. Each sampler of the registry, by each execution mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import pytest
import torch
from baseline import Agent
from subjects import DIMS, Chain, chain_flops, devices, modes, new_mode, synchronizer

from dqlab.diffusion import samplers
from dqlab.policies.diffusion import DiffusionPolicy

LONG = 20
"""Chains longer than this are compiled for one batch size only: unrolled, they take a compiler minutes."""


@dataclass(frozen=True)
class Case:
    n_timesteps: int
    batch: int
    sampler: str
    mode: str
    device: str

    @property
    def id(self) -> str:
        return f"{self.sampler}-N{self.n_timesteps}-B{self.batch}-{self.mode}-{self.device}"


def cases(quick: bool) -> list[Any]:
    steps, batches = ((5,), (256,)) if quick else ((1, 2, 5, 10, 20, 50), (1, 50, 256, 2560))
    names = [entry.name for entry in samplers]
    found = [
        Case(*shape, mode, device)
        for device in devices()
        for mode in modes(device)
        for shape in product(steps, batches, names)
    ]
    return [pytest.param(case, marks=_skipped(case), id=case.id) for case in found]


def _skipped(case: Case) -> list[Any]:
    too_long = "compile" in case.mode and case.n_timesteps > LONG and case.batch != 256
    return (
        [pytest.mark.skip(reason=f"chains of over {LONG} steps are compiled for 256 states only")] if too_long else []
    )


def test_sampler(measure: Callable[..., Any], case: Case) -> None:
    policy = DiffusionPolicy(n_timesteps=case.n_timesteps, sampler=case.sampler)
    chain = Chain(policy, case.batch, new_mode(case.mode), case.device)
    actor = Agent(DIMS.state, DIMS.action, case.device, case.n_timesteps).actor
    state = torch.randn(case.batch, DIMS.state, device=case.device)
    assert chain().shape == (case.batch, DIMS.action)
    measure(
        chain,
        baseline=torch.no_grad()(lambda: actor.sample(state)),
        parameters={"part": "sampler", **asdict(case)},
        work=case.batch,
        flops=chain_flops(policy, case.batch),
        synchronize=synchronizer(case.device),
    )
