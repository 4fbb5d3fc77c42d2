"""A program recorded as a CUDA graph: one launch instead of a thousand."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dqlab.errors import CaptureError, first_line
from dqlab.training.program import Program, Run, Tensors, leaves

WARM_UPS = 3
"""Runs before the recording, in which libraries make their handles and choose their kernels."""


class GraphRecorder:
    """Records programs that never run at the same time: their graphs share memory, and the stream of the recordings.

    Args:
        device: of the programs' tensors, a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, program: Program, function: Callable[[Tensors], Any]) -> Run:
        """Record one run of `function` on the program's tensors; what warm-up runs changed is put back.

        Args:
            program: whose tensors are read and written at every replay.
            function: its function, or a compiled version of it.

        Returns:
            A function that replays the graph and returns its result, which the next replay overwrites.

        Raises:
            CaptureError: it cannot be recorded. CUDA's state in this process is undefined from then on.
        """
        causes: list[Exception] = []
        try:
            with torch.cuda.device(self._device):  # a thread's own: the recording would be of the current device's
                self._warm_up(program, function)
                graph = torch.cuda.CUDAGraph()
                with undisturbed(), torch.cuda.graph(graph, pool=self._pool, stream=self._stream), noting(causes):
                    result = function(program.tensors)
        except Exception as error:
            cause = causes[0] if causes else error  # a recording that fails inside fails once more where it ends
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from error
            raise CaptureError(
                f"The CUDA graph could not be recorded: {type(cause).__name__}: {first_line(cause)}. "
                "What this process computes on the GPU from here on is not to be believed, so it ends. Start it again "
                "with Training.execution='eager'."
            ) from cause

        def run() -> Any:
            graph.replay()
            return result

        return run

    def _warm_up(self, program: Program, function: Callable[[Tensors], Any]) -> None:
        """On the stream of the recordings, as they need it; the state is put back after each run."""
        changed = [tensor for name in program.changes for tensor in leaves(program.tensors[name])]
        kept = [tensor.clone() for tensor in changed]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function(program.tensors)
                for tensor, value in zip(changed, kept, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(self._stream)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A recording that nothing else interferes with.

    Workspaces of cuBLAS are freed just before and after it, so that it takes them from the graph's own memory, as
    PyTorch's cudagraph trees do: PyTorch keeps a workspace for each stream, and frees them all when any graph is
    destroyed (2.12 and 2.13; its issues 175276 and 193402). And garbage is collected before, not during it: to destroy
    an older graph, which garbage may hold, is not permitted while another one is recorded (issue 161037).
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        if collecting:
            gc.enable()


@contextmanager
def noting(causes: list[Exception]) -> Iterator[None]:
    """Keep what is raised inside, too."""
    try:
        yield
    except Exception as error:
        causes.append(error)
        raise
