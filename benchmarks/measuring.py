"""How two callables are timed against each other, what follows from their times, and what a device is able to do."""

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
from history import FIGURES, BenchmarkError

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
    ways += [] if on_gpu or not products.onednn_available() else [partial(torch.ops.dqlab.linear, factor, factor, None)]
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


ROUNDS = 5


def figures_of(
    candidate: Sequence[float], baseline: Sequence[float], work: float, flops: float | None, peak: float | None
) -> dict[str, float]:
    """What follows from the times of alternating rounds.

    Args:
        candidate: seconds a call, round by round.
        baseline: the same of what it is compared with; empty if there is nothing.
        work: units of work of one call.
        flops: floating-point operations of one call, or None.
        peak: floating-point operations a second that the device is able to do, or None.

    Returns:
        `work`, `per_second` (work over the median time); with a baseline `baseline_seconds` (its median) and `ratio`
        (the median over rounds of baseline over candidate: how many times faster the candidate is); with flops
        `flops`, `flops_per_second`, and, where the peak is known, `peak` and `peak_share`.
    """
    median = statistics.median(candidate)
    figures = {"work": work, "per_second": work / median}
    if baseline:
        ratios = [theirs / ours for theirs, ours in zip(baseline, candidate, strict=True)]
        figures |= {"ratio": statistics.median(ratios), "baseline_seconds": statistics.median(baseline)}
    if flops is not None:
        figures |= {"flops": flops, "flops_per_second": flops / median}
        if peak is not None:
            figures |= {"peak": peak, "peak_share": flops / median / peak}
    return figures


class Measure:
    """What the fixture `measure` is: pytest-benchmark's `benchmark` fixture, against a baseline.

    Args:
        benchmark: pytest-benchmark's fixture of this test.
        note: told the benchmark's name, its median seconds and its figures.
        clock: returns seconds.
    """

    def __init__(
        self,
        benchmark: Any,
        note: Callable[[str, float, dict[str, float]], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._benchmark, self._note, self._clock = benchmark, note, clock

    def __call__(
        self,
        candidate: Call,
        baseline: Call | None = None,
        parameters: Mapping[str, Any] | None = None,
        work: float = 1,
        flops: float | None = None,
        synchronize: Call | None = None,
        warmup: int = 1,
    ) -> dict[str, float]:
        """Time `candidate` against `baseline`, in five rounds in which they alternate; once a test.

        pytest-benchmark's own figures are the candidate's. Where it is disabled, each is called once, untimed.

        Args:
            candidate: what is measured.
            baseline: what it is compared with, or None.
            parameters: what tells this benchmark from others: `part` and whatever belongs to it. `device` names the
                device whose peak the share is taken of, the CPU by default.
            work: units of work of one call, for `per_second`.
            flops: floating-point operations of one call, for `peak_share`.
            synchronize: called before each reading of the clock.
            warmup: calls of each before anything is timed.

        Returns:
            What `figures_of` says, and `threads`; empty where pytest-benchmark is disabled.

        Raises:
            BenchmarkError: a parameter has the name of a figure.
        """
        parameters = dict(parameters or {})
        if taken := sorted(set(parameters) & set(FIGURES)):
            raise BenchmarkError(f"A benchmark's parameter cannot be called {', '.join(taken)}: that is a figure.")
        self._benchmark.extra_info.update(parameters)
        if self._benchmark.disabled:
            return self._once(candidate, baseline)
        watch = Stopwatch(synchronize or wait_for_nothing, self._clock)
        for call in [each for each in (baseline, candidate) if each is not None] * warmup:
            call()
        ours, theirs = self._alternate(watch, candidate, baseline)
        figures = figures_of(ours, theirs, work, flops, _peak(flops, parameters)) | {"threads": torch.get_num_threads()}
        self._benchmark.extra_info.update(figures)
        self._note(self._benchmark.fullname, statistics.median(ours), figures)
        return figures

    def _once(self, candidate: Call, baseline: Call | None) -> dict[str, float]:
        """No timing was asked for: see that both run."""
        if baseline is not None:
            baseline()
        self._benchmark.pedantic(candidate)
        return {}

    def _alternate(self, watch: Stopwatch, candidate: Call, baseline: Call | None) -> tuple[list[float], list[float]]:
        """Seconds a call of both, round by round; pytest-benchmark times the candidate's half of each round."""
        ours: list[float] = []
        theirs: list[float] = []
        calls = watch.calls_a_round(candidate)
        baseline_calls = watch.calls_a_round(baseline) if baseline is not None else 0

        def before() -> None:
            # pytest-benchmark allows no inner calls beside a setup, but divides by this number
            self._benchmark.stats.iterations = calls
            if baseline is not None:
                theirs.append(watch.seconds(baseline, baseline_calls))
            watch.synchronize()

        self._benchmark.pedantic(lambda: ours.append(watch.seconds(candidate, calls)), setup=before, rounds=ROUNDS)
        return ours[:ROUNDS], theirs[:ROUNDS]  # its profiling option runs one more


def _peak(flops: float | None, parameters: Mapping[str, Any]) -> float | None:
    """The device's measured peak, if there are operations to be held against it."""
    return None if flops is None else measure_peak(str(parameters.get("device", "cpu")))
