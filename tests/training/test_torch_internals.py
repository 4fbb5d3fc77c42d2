"""What dqlab uses of PyTorch beyond its documentation is there, and does what is expected of it."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import ROOT

from dqlab.diffusion.process import device_constants
from dqlab.training.execution import torch_internals
from dqlab.training.execution.program import trace_program

BELOW = ("diffusion/process.py", "networks/stacking.py")
"""Files of rooms that cannot import from training's."""


def test_all_of_it_is_in_one_file() -> None:
    private = re.compile(r"torch[a-z_.]*\._|aten\._|\._(parameters|modules|schema)\b|_python_dispatch|_allow_non_fake")
    found = {
        path.relative_to(ROOT / "dqlab").as_posix()
        for path in (ROOT / "dqlab").rglob("*.py")
        if any(private.search(line) and "__version__" not in line for line in path.read_text().splitlines())
    }
    assert found == {"training/execution/torch_internals.py", *BELOW}


def test_inductors_settings_that_are_asked_for_are_told_from_others() -> None:
    """Without it, a setting that this PyTorch lacks fails every compiled run; with it, it is left out."""
    assert torch_internals.known_inductor_options({"max_autotune": False, "no_such_setting": 1}) == {
        "max_autotune": False
    }


def test_constants_are_numbers_in_a_traced_program() -> None:
    """Without it, a program that is traced before it was ever called would keep constants without values."""
    values = (0.125, 0.25, 0.375)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * device_constants(values, torch.float64, torch.device("cpu"))

    x = torch.ones(3, dtype=torch.float64)
    assert trace_program(scaled, [x])(x).tolist() == list(values)
    assert device_constants(values, torch.float64, torch.device("cpu")).tolist() == list(values)


@pytest.mark.gpu
def test_cublas_lets_go_of_its_workspaces() -> None:
    """Without it, workspaces of recordings lie outside of their graphs' memory."""
    torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    before = torch.cuda.memory_allocated()
    torch_internals.clear_cublas_workspaces()
    assert torch.cuda.memory_allocated() < before


def test_the_call_that_clears_workspaces_is_there() -> None:
    assert hasattr(torch._C, "_cuda_clearCublasWorkspaces") or not torch.backends.cuda.is_built()
