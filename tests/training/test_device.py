"""Without a GPU: the step and the sampler run on tensors of a device that only knows shapes.

They stay on it (a tensor made on the host would be refused), and never read a value back (there is none to read).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch.utils.backend_registration as registration
from conftest import ROOT

SETUP = "_setup_privateuseone_for_python_backend"

CODE = f"""
import gin, torch
from torch.utils.backend_registration import {SETUP}
{SETUP}("card")
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from conftest import SHALLOW, SMALL
from dqlab.algorithms import algorithms
from dqlab.data import Transitions
from dqlab.diffusion import process
from dqlab.diffusion.process import device_constants
from dqlab.policies import diffusion
from dqlab.policies.base import Dims
from dqlab.training.execution.modes import Eager
from dqlab.training import Pack
from dqlab.training.execution.program import tree_map
from dqlab.training.programs import SamplerCore
from dqlab.training.programs import Step

algorithms.names()
gin.parse_config([*SMALL, *SHALLOW])
dims, n = Dims(17, 6), 50
action, made = torch.randn(n, 6), (torch.randn(n), torch.randn(n, 17), torch.zeros(n))
data = Transitions(torch.randn(n, 17), action, *made, provenance=None, next_action=action)

def card(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="card")

def move_buffers(pack):
    for layout in pack.layouts.values():
        for path, buffer in list(layout.module.named_buffers()):
            owner, _, leaf = path.rpartition(".")
            setattr(layout.module.get_submodule(owner), leaf, card(buffer))

def run(program, mistake=""):
    tensors = tree_map(card, program.tensors)
    if mistake == "host":
        tensors["parameters"] = tree_map(lambda t: torch.empty(t.shape), tensors["parameters"])
    result = program.function(tensors)
    if mistake == "read":
        float(result[0, 0, 0] if result is not None else tensors["cursor"][0])
    assert result is None or result.device.type == "card", result.device

def empty_constants(values, dtype, device):
    return torch.empty(len(values), dtype=dtype, device=device)

for name in algorithms.names():
    for replicas in (2,) if name != "diffusion_ql" else (1, 2):
        process.device_constants = diffusion.device_constants = device_constants
        pack = Pack([algorithms.get(name)()] * replicas, dims, range(replicas), width=replicas)
        pack.state.step = pack.phases[-1]
        step, core = Step(pack, data, 8, Eager()), SamplerCore(pack, 2, Eager())
        programs = [step._program(slice(0, replicas)), core._program(slice(0, replicas), 0)]
        process.device_constants = diffusion.device_constants = empty_constants
        with FakeTensorMode():
            move_buffers(pack)
            for program in programs:
                run(program)
print("stayed on the card")
with FakeTensorMode():
    for program in programs:
        for mistake in ("host", "read"):
            try:
                run(program, mistake)
            except (RuntimeError, DataDependentOutputException) as error:
                print(mistake, "device" in str(error) or "_local_scalar_dense" in str(error))
"""


@pytest.mark.skipif(
    not hasattr(registration, SETUP), reason="this PyTorch has no devices written in Python (2.10 and later have)"
)
def test_nothing_crosses_to_the_host() -> None:
    """The updates and the actions of every algorithm, packed; where one would, the test sees it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["stayed on the card", *2 * ["host True", "read True"]], done.stderr[-2000:]
