"""Without a card: what is asked of PyTorch when a program is recorded, beyond its documentation, and of a device.

What observes operations, says what they change, or calls oneDNN, is held by the figures that rest on it:
test_operations.py and networks/test_products.py.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gin
import pytest
import torch
from conftest import ROOT, SHALLOW, SMALL
from made_updates import CPU, DIMS, random_transitions
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dqlab.algorithms import algorithms
from dqlab.diffusion.process import device_constants
from dqlab.errors import CaptureError
from dqlab.networks import Layout
from dqlab.tools.conformance.made import check_device
from dqlab.training import Pack
from dqlab.training.execution import modes, torch_internals
from dqlab.training.execution.program import Program, TensorTree, trace_program
from dqlab.training.programs import SamplerCore, Step


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of CUDA was asked for."""
    said: list[str] = []

    def note(name: str) -> Any:
        @contextmanager
        def noted(*args: Any, **kwargs: Any) -> Iterator[None]:
            said.append(f"{name} begins{' on ' + str(args[0]) if name == 'device' else ''}")
            try:
                yield
            except Exception as error:
                if name == "recording":  # as PyTorch's does, whatever the cause was
                    raise RuntimeError("operation failed due to a previous error during capture") from error
                raise
            said.append(f"{name} ends")

        return noted

    stream = SimpleNamespace(wait_stream=lambda other: None)
    graph = SimpleNamespace(replay=lambda: said.append("replayed"))
    for name, value in {
        "device": note("device"),
        "stream": note("warm-up"),
        "graph": note("recording"),
        "Stream": lambda: said.append("stream made") or stream,
        "current_stream": lambda: stream,
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": lambda: graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: said.append("cleared"), raising=False)
    return said


def counting(said: list[str]) -> Program:
    def add(tensors: TensorTree) -> torch.Tensor:
        said.append("run")
        return tensors["count"].add_(1)

    return Program(add, {"count": torch.zeros(1)}, ("count",))


def test_the_card_the_stream_and_the_workspaces_are_the_graphs_own(asked: list[str]) -> None:
    """On the program's card, whichever is the current one; workspaces are freed just before and just after.

    Programs of one mode on one card share a stream.
    """
    mode, program = modes.CudaGraph(), counting(asked)
    replay = mode(program)
    begun = ["warm-up begins", "run", "run", "run", "warm-up ends"]
    recorded = ["cleared", "recording begins", "run", "recording ends", "cleared", "device ends"]
    assert asked == ["device begins on cpu", "stream made", *begun, *recorded]
    assert float(program.tensors["count"]) == 1.0, "warm-up runs are undone (a real recording computes nothing)"
    replay()
    assert asked.pop() == "replayed"
    mode(program)
    for index in (1, 0):  # cards that need not be there
        with FakeTensorMode():
            tensors = {"state": torch.zeros(1, device=f"cuda:{index}")}
        mode(Program(lambda tensors: asked.append("run"), tensors))
    begun = [each for each in asked if each.startswith(("device begins", "stream"))]
    assert begun == [
        *("device begins on cpu", "stream made", "device begins on cpu"),
        *("device begins on cuda:1", "stream made", "device begins on cuda:0", "stream made"),
    ]


@pytest.mark.parametrize("when", ["warm-up begins", "recording begins"])
@pytest.mark.parametrize(
    ("fault", "raised", "said"),
    [
        (
            ValueError("operation not permitted when stream is capturing\nwith more lines"),
            CaptureError,
            r"ValueError: .* not permitted .* capturing\. What .* is not to be believed, so it ends",
        ),
        # which every command tells in its own words
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "^CUDA out of memory$"),
    ],
    ids=["any error", "no room"],
)
def test_a_failed_recording_is_the_end(
    asked: list[str], when: str, fault: Exception, raised: type[Exception], said: str
) -> None:
    def fails(tensors: TensorTree) -> None:
        if when in asked:
            raise fault

    with pytest.raises(raised, match=said):
        modes.CudaGraph().record(counting(asked), fails)
    assert asked[-1] == ("cleared" if when == "recording begins" else when)


def test_no_garbage_is_collected_during_a_recording(asked: list[str]) -> None:
    """It is collected just before, and never between the beginning and the end; then as before."""
    seen: list[tuple[str, bool]] = []

    class Cycle:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            asked.append("garbage collected")

    Cycle()
    modes.CudaGraph().record(counting(asked), lambda tensors: seen.append((asked[-1], gc.isenabled())))
    assert seen[-1] == ("recording begins", False)
    assert asked.index("garbage collected") < asked.index("recording begins")
    assert gc.isenabled()


@pytest.mark.parametrize(("name", "replicas"), [("diffusion_ql", 1), ("diffusion_ql", 2), ("bdpo", 2), ("dtql", 2)])
def test_nothing_crosses_to_the_host(name: str, replicas: int) -> None:
    """What is made on the host or read back is refused where tensors have shapes only.

    In the last phase; the first one of every algorithm: conformance.
    """
    gin.parse_config([*SMALL, *SHALLOW])
    pack = Pack([algorithms.get(name)()] * replicas, DIMS, range(replicas), width=replicas)
    pack.state.step, rows = pack.phases[-1], slice(0, replicas)
    step, core = (
        Step(pack, random_transitions(50, torch.float32), 8, modes.Eager()),
        SamplerCore(pack, 2, modes.Eager()),
    )
    updates, action = [*step._programs(pack.phases[-1]), *step._programs(pack.phases[-1] + 1)], core._program(rows, 0)
    for layout in pack.layouts.values():
        layout.to(torch.device("meta"))
    for program in (*updates, action):
        check_device(program.function, program.tensors)
    here = {part: action.tensors[part] for part in ("parameters", "targets")}
    for mistake in (lambda tensors: action.function(tensors | here), lambda tensors: float(tensors["cursor"][0])):
        with pytest.raises(AssertionError, match="leaves the device of its arguments, or reads a value back"):
            check_device(mistake, {**updates[0].tensors, **action.tensors})


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
    found = torch_internals.known_inductor_options({"max_autotune": False, "no_such_setting": 1})
    assert found == {"max_autotune": False}


def test_constants_are_numbers_in_a_traced_program() -> None:
    """Without it, a program that is traced before it was ever called would keep constants without values."""
    values = (0.125, 0.25, 0.375)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * device_constants(values, torch.float64, CPU)

    x = torch.ones(3, dtype=torch.float64)
    assert trace_program(scaled, [x])(x).tolist() == scaled(x).tolist() == list(values)


def tied() -> nn.Module:
    """One layer under two names, and one that is left out."""
    layer = nn.Linear(3, 3)
    layer.register_module("absent", None)
    return nn.Sequential(layer, layer, nn.Linear(3, 3, bias=False))


def test_a_bound_network_is_its_module_with_other_parameters() -> None:
    """Layers used twice, missing biases and missing layers included; the module keeps its own."""
    module, other, x = tied(), tied(), torch.randn(2, 3)
    layout, before = Layout.of(module), module(x)
    network = layout.bind(layout.flatten(dict(other.named_parameters())))
    assert torch.equal(network(x), other(x))
    assert torch.equal(network.call("forward", x), other(x))
    assert torch.equal(module(x), before)


@pytest.mark.gpu
def test_cublas_lets_go_of_its_workspaces() -> None:
    """Without it, workspaces of recordings lie outside of their graphs' memory."""
    torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    before = torch.cuda.memory_allocated()
    torch_internals.clear_cublas_workspaces()
    assert torch.cuda.memory_allocated() < before
