"""How two callables are timed: rounds, calls, the clock, and what follows from the times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from history import BenchmarkError
from measuring import Measure, Stopwatch, figures_of, full_precision, measure_peak


class Clock:
    """A clock that only moves when something takes time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[str] = []

    def __call__(self) -> float:
        self.events.append("clock")
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.events.append(name)
        self.now += seconds


def test_figures_by_hand() -> None:
    # a round in which the machine was busy (3.0 against 9.0) changes no ratio
    figures = figures_of([1.0, 2.0, 3.0], [2.0, 8.0, 9.0], work=4, flops=10.0, peak=50.0)
    assert figures == {
        "work": 4,
        "per_second": 2.0,
        "ratio": 3.0,
        "baseline_seconds": 8.0,
        "flops": 10.0,
        "flops_per_second": 5.0,
        "peak": 50.0,
        "peak_share": 0.1,
    }
    assert figures_of([0.5], [], work=1, flops=None, peak=None) == {"work": 1, "per_second": 2.0}


def test_seconds_of_one_call_with_synchronised_readings() -> None:
    clock = Clock()
    watch = Stopwatch(lambda: clock.work("wait", 0.25), clock)
    assert watch.seconds(lambda: clock.work("call", 1.0), 2) == (2 * 1.0 + 0.25) / 2
    assert clock.events == ["wait", "clock", "call", "call", "wait", "clock"]


@pytest.mark.parametrize(
    ("seconds", "calls"), [(1e-3, (20, 40)), (1e-5, (2000, 4000)), (3.0, (1, 1)), (0.02, (1, 1)), (0.0, (10**4, 10**4))]
)
def test_a_round_is_long_enough_and_not_much_longer(seconds: float, calls: tuple[int, int]) -> None:
    """20 ms; one call where that takes longer, and at most 10,000."""
    clock = Clock()
    low, high = calls
    assert low <= Stopwatch(clock=clock).calls_a_round(lambda: clock.work("call", seconds)) <= high


def test_where_benchmarks_are_disabled_each_is_called_once(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "disabled", True)
    calls: list[str] = []
    measure = Measure(benchmark, lambda *row: pytest.fail("a figure was noted"))
    assert measure(lambda: calls.append("c"), lambda: calls.append("b")) == {}
    assert calls == ["b", "c"]


def test_a_parameter_is_not_called_like_a_figure() -> None:
    with pytest.raises(BenchmarkError, match="cannot be called ratio"):
        Measure(None, lambda *_: None)(lambda: None, parameters={"ratio": 2})


def test_the_peak_is_measured_once_and_leaves_the_chosen_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert measure_peak("cpu") > 0
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert 1e8 < measure_peak("cpu") < 1e14
    assert measure_peak("cpu") == measure_peak("cpu")


@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_full_precision_is_the_setting_that_products_ask_for(chosen: str) -> None:
    """cuBLAS asks for `allow_tf32`, which fails where a backend's setting is not the overall one."""
    torch.set_float32_matmul_precision(chosen)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == chosen
        assert torch.backends.cuda.matmul.allow_tf32 is before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch before 2.9")
def test_precision_that_was_chosen_by_backend_is_put_back() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
