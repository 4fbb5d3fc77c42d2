"""A program recorded as a CUDA graph: one launch instead of a thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dqlab.training.program import Program, Run, Tensors

WARM_UPS = 3
"""Runs before the recording, in which libraries make their handles and choose their kernels."""


def capture(program: Program, function: Callable[[Tensors], Any], pool: Any) -> Run:
    """Record one run of `function` on the program's tensors; what warm-up runs changed is put back.

    Args:
        program: whose tensors, on a CUDA device, are read and written at every replay.
        function: its function, or a compiled version of it.
        pool: memory shared with other graphs, which must not run at the same time (`torch.cuda.graph_pool_handle`).

    Returns:
        A function that replays the graph and returns its result, which the next replay overwrites.
    """
    kept = program.kept()
    _warm_up(program, function, kept)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = function(program.tensors)

    def run() -> Any:
        graph.replay()
        return result

    return run


def _warm_up(
    program: Program, function: Callable[[Tensors], Any], kept: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """On a stream of its own, as recordings need it; the state is put back after each run."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function(program.tensors)
            for tensor, value in kept:
                tensor.copy_(value)
    torch.cuda.current_stream().wait_stream(stream)
