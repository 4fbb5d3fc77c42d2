"""How a program is recorded, without a card: what is asked of PyTorch, and in which order."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dqlab.errors import CaptureError
from dqlab.training.execution import modes
from dqlab.training.execution.program import Program, TensorTree


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


def test_the_device_and_the_workspaces_are_the_graphs_own(asked: list[str]) -> None:
    """On the program's device, whichever is the current one; workspaces are freed just before and just after."""
    program = counting(asked)
    replay = modes.CudaGraph()(program)
    assert asked == [
        *("device begins on cpu", "stream made", "warm-up begins", "run", "run", "run", "warm-up ends"),
        *("cleared", "recording begins", "run", "recording ends", "cleared", "device ends"),
    ]
    assert float(program.tensors["count"]) == 1.0, "warm-up runs are undone (a real recording computes nothing)"
    replay()
    assert asked[-1] == "replayed"


def on_card(said: list[str], index: int) -> Program:
    """A program of a card that need not be there."""
    with FakeTensorMode():
        tensors = {"state": torch.zeros(1, device=f"cuda:{index}")}
    return Program(lambda tensors: said.append("run"), tensors)


def test_the_card_of_the_program_is_entered(asked: list[str]) -> None:
    """Not the current one: stream, warm-up and recording are all on it; the next one has a stream of its own."""
    mode = modes.CudaGraph()
    mode(on_card(asked, 1))
    assert asked[:3] == ["device begins on cuda:1", "stream made", "warm-up begins"]
    assert asked[-1] == "device ends"
    mode(on_card(asked, 0))
    assert [said for said in asked if said.startswith("device begins")] == [
        f"device begins on cuda:{i}" for i in (1, 0)
    ]
    assert asked.count("stream made") == 2


def test_programs_of_one_mode_share_its_stream(asked: list[str]) -> None:
    mode, program = modes.CudaGraph(), counting(asked)
    mode(program)
    mode(program)
    assert asked.count("stream made") == 1


def test_a_failed_recording_is_the_end(asked: list[str]) -> None:
    def fails(tensors: TensorTree) -> None:
        if "recording begins" in asked:
            raise ValueError("operation not permitted when stream is capturing\nwith more lines")

    with pytest.raises(
        CaptureError, match=r"ValueError: .* not permitted .* capturing\. What .* is not to be believed, so it ends"
    ):
        modes.CudaGraph().record(counting(asked), fails)
    assert asked[-1] == "cleared"


@pytest.mark.parametrize("when", ["warm-up begins", "recording begins"])
def test_a_card_without_room_says_so_itself(asked: list[str], when: str) -> None:
    """That error is the one that every command tells in its own words."""

    def fails(tensors: TensorTree) -> None:
        if when in asked:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        modes.CudaGraph().record(counting(asked), fails)


def test_no_garbage_is_collected_during_a_recording(asked: list[str]) -> None:
    """It is collected just before, and never between the beginning and the end; then as before."""
    seen: list[tuple[str, bool]] = []

    class Cycle:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            asked.append("garbage collected")

    def function(tensors: TensorTree) -> None:
        seen.append((asked[-1], gc.isenabled()))

    Cycle()
    modes.CudaGraph().record(counting(asked), function)
    assert seen[-1] == ("recording begins", False)
    assert asked.index("garbage collected") < asked.index("recording begins")
    assert gc.isenabled()
