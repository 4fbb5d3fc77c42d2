"""Measuring: a stopwatch, what a device is able to do, and figures as text."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from dqlab.training.execution import products

ROUND_SECONDS = 0.02
"""A round takes at least that long, so that the clock and a single hiccup of the machine do not matter."""
MOST_CALLS = 10_000
Call = Callable[[], object]


def wait_for_nothing() -> None:
    """Wait for nothing: on a CPU a call that has returned is done."""


@dataclass(frozen=True)
class Stopwatch:
    """Times calls.

    Attributes:
        synchronize: called before each reading of the clock, e.g. `torch.cuda.synchronize`.
        clock: returns seconds.
    """

    synchronize: Call = wait_for_nothing
    clock: Callable[[], float] = time.perf_counter

    def seconds(self, call: Call, calls: int = 1) -> float:
        """Seconds of one call, over `calls` in a row."""
        self.synchronize()
        start = self.clock()
        for _ in range(calls):
            call()
        self.synchronize()
        return (self.clock() - start) / calls

    def calls_a_round(self, call: Call) -> int:
        """How many calls in a row take `ROUND_SECONDS`, at most `MOST_CALLS`; one where a call takes longer."""
        calls = 1
        while calls < MOST_CALLS:
            elapsed = calls * self.seconds(call, calls)
            if elapsed >= ROUND_SECONDS:
                break
            growth = ROUND_SECONDS / elapsed if elapsed > 0 else 10.0
            calls = math.ceil(calls * min(max(growth * 1.1, 1.5), 10.0))  # a first, cold estimate is not trusted far
        return min(calls, MOST_CALLS)


CPU_SIZE, GPU_SIZE = 2048, 8192
SAMPLES = 5


def measure_peak(device: str) -> float:
    """Floating-point operations a second of a large float32 matrix product, median of five; measured once.

    By the faster of PyTorch's own product and the one that compiled programs use; in full float32 (no TF32), with the
    current number of threads. Work in lower precision may exceed it.

    Args:
        device: cpu, cuda or cuda:N.
    """
    return _measured(device, torch.get_num_threads())


@cache
def _measured(device: str, threads: int) -> float:
    on_gpu = torch.device(device).type == "cuda"
    size = GPU_SIZE if on_gpu else CPU_SIZE
    factor = torch.full((size, size), 0.5, device=device)
    product = torch.empty_like(factor)
    watch = Stopwatch(partial(torch.cuda.synchronize, device)) if on_gpu else Stopwatch()
    ways = [partial(torch.mm, factor, factor, out=product)]
    ways += [] if on_gpu or not products.onednn_available() else [partial(torch.ops.dqlab.mm, factor, factor)]
    with full_precision(), torch.no_grad():
        seconds = min(_median_seconds(watch, multiply) for multiply in ways)
    return 2.0 * size**3 / seconds


def _median_seconds(watch: Stopwatch, multiply: Callable[[], object]) -> float:
    multiply()
    return statistics.median(watch.seconds(multiply) for _ in range(SAMPLES))


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in full float32, whatever the benchmarks have chosen.

    By PyTorch's overall setting: a backend whose own setting differs fails at its next product (2.9 on). What was
    chosen backend by backend is put back so: there is no overall setting then.
    """
    name = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"
    known = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    each = [(backend, getattr(backend, name)) for backend in known if hasattr(backend, name)]
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:
        overall = ""
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if overall:
            torch.set_float32_matmul_precision(overall)
        for backend, precision in [] if overall else each:
            setattr(backend, name, precision)


NONE = "-"
TIMES = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"), (0.0, " ns"))
COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (0.0, ""))
SMALLEST = {" ns": 1e-9}


def format_digits(value: float) -> str:
    """Three significant digits, never in exponential form."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:.{max(decimals, 0)}f}"


def _scaled(value: float | None, scales: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return NONE
    factor, unit = next(scale for scale in scales if value >= scale[0] * 0.9995)
    return format_digits(value / (factor or SMALLEST.get(unit, 1.0))) + unit


def format_seconds(value: float | None) -> str:
    """A duration, e.g. 12.3 ms."""
    return _scaled(value, TIMES)


def format_count(value: float | None) -> str:
    """A number or a rate, e.g. 123 or 45.6 k."""
    return _scaled(value, COUNTS)


def format_times(ratio: float | None) -> str:
    """How many times faster, e.g. 1.52x."""
    return NONE if ratio is None else f"{format_digits(ratio)}x"


def format_share(part: float | None) -> str:
    """A part of a whole, e.g. 12.3%."""
    return NONE if part is None else f"{100 * part:.1f}%"


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line, e.g. batch=256, mode=eager."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def benchmark_cells(median: float | None, figures: Mapping[str, float]) -> list[str]:
    """The five columns of every table of benchmarks, without the name: see `HEADINGS`."""
    return [
        format_seconds(median),
        format_count(figures.get("per_second")),
        format_times(figures.get("ratio")),
        format_share(figures.get("peak_share")),
    ]


HEADINGS = ("median", "per second", "ratio", "of peak")


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
