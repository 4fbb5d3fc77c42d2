"""What dqlab uses of PyTorch beyond its documentation is there, and does what is expected of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import nn

from dqlab.diffusion.process import device_constants
from dqlab.networks import Layout
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


def test_an_observer_sees_every_operation_and_its_result() -> None:
    """Without it, neither a replica's memory nor an update's operations are counted."""
    seen: list[tuple[str, torch.Size]] = []

    def note(operation: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        seen.append((str(operation.overloadpacket), result.shape))

    with torch_internals.OperationObserver(note):
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert ("aten.mm", torch.Size([2, 4])) in seen


def test_inductors_settings_that_are_asked_for_are_told_from_others() -> None:
    """Without it, a setting that this PyTorch lacks fails every compiled run; with it, it is left out."""
    assert torch_internals.known_inductor_options({"max_autotune": False, "no_such_setting": 1}) == {
        "max_autotune": False
    }


def test_onednns_product_is_a_linear_layers() -> None:
    """Without it, compiled programs go by MKL's products: correct, and slower on AMD's processors from Zen 5 on."""
    a, b, bias = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3), torch.arange(4.0)
    torch.testing.assert_close(torch_internals.onednn_linear(a, b, bias), a @ b.t() + bias)


def test_operators_say_what_they_change() -> None:
    """Without it, sums in a graph could be merged across an operation that changes their terms."""
    graph = trace_program(lambda x: x.clone().add_(1) + 1, [torch.ones(3)]).graph
    schemas = [torch_internals.operator_schema(node) for node in graph.nodes]
    assert [schema.is_mutable for schema in schemas if schema is not None] == [False, True, False]


def test_constants_are_numbers_in_a_traced_program() -> None:
    """Without it, a program that is traced before it was ever called would keep constants without values."""
    values = (0.125, 0.25, 0.375)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * device_constants(values, torch.float64, torch.device("cpu"))

    x = torch.ones(3, dtype=torch.float64)
    assert trace_program(scaled, [x])(x).tolist() == list(values)
    assert device_constants(values, torch.float64, torch.device("cpu")).tolist() == list(values)


def test_a_bound_network_has_the_rows_parameters_and_the_module_its_own() -> None:
    """Without modules' dictionaries as they are, a network could not be called with a row of a pack's matrix."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    layout = Layout.of(module)
    row = layout.flatten({name: torch.full_like(value, 0.5) for name, value in module.named_parameters()})
    torch.testing.assert_close(layout.bind(row)(torch.ones(1, 2)), torch.full((1, 2), 1.5).tanh())
    assert not any(bool((value == 0.5).all()) for value in layout.module.parameters())


@pytest.mark.gpu
def test_cublas_lets_go_of_its_workspaces() -> None:
    """Without it, workspaces of recordings lie outside of their graphs' memory."""
    torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    before = torch.cuda.memory_allocated()
    torch_internals.clear_cublas_workspaces()
    assert torch.cuda.memory_allocated() < before


def test_the_call_that_clears_workspaces_is_there() -> None:
    assert hasattr(torch._C, "_cuda_clearCublasWorkspaces") or not torch.backends.cuda.is_built()
