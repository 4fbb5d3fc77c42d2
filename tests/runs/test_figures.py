"""Figures of hand-made traces, named as Kineto names its events; every answer is worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dqlab.runs.profile.page import shorten_name
from dqlab.runs.profile.trace import (
    UPDATE,
    Event,
    EventTotal,
    covered_time,
    device_figures,
    events_of,
    host_figures,
    is_operator,
    outermost_events,
    spent_itself,
    time_spent,
)

HOST, STREAM, OTHER = ("host", 1), (0, 7), (0, 20)


def update(start: float, duration: float) -> Event:
    return Event(UPDATE, start, duration, "user_annotation", HOST)


def op(name: str, start: float, duration: float) -> Event:
    return Event(name, start, duration, "cpu_op", HOST)


def kernel(name: str, start: float, duration: float, stream: Any = STREAM) -> Event:
    return Event(name, start, duration, "kernel", stream)


def call(name: str, start: float) -> Event:
    return Event(name, start, 1.0, "cuda_runtime", HOST)


def test_covered_time_counts_overlaps_once() -> None:
    """[0, 10] and [5, 12] and, inside the second, [6, 7]; then [20, 25]: 12 + 5."""
    events = [kernel("a", 20, 5), kernel("b", 0, 10), kernel("c", 5, 7, OTHER), kernel("d", 6, 1)]
    assert covered_time(events) == 17
    assert covered_time([]) == 0


NEST = [
    op("aten::linear", 0, 10),
    op("aten::t", 1, 2),
    op("aten::addmm", 4, 5),
    op("aten::copy_", 5, 1),
    op("aten::t", 10, 3),
    Event("aten::t", 4, 2, "cpu_op", "another thread"),
]


def test_outermost_and_own_time() -> None:
    """linear: 10 - 2 - 5; addmm: 5 - 1; t: 2 + 3 + 2, none of it called from the other thread's operators."""
    assert [(event.name, event.start) for event in outermost_events(NEST)] == [
        ("aten::linear", 0),
        ("aten::t", 4),
        ("aten::t", 10),
    ]
    assert time_spent(NEST)["aten::linear"] == EventTotal(1, 10)
    assert spent_itself(NEST) == {
        "aten::linear": EventTotal(1, 3),
        "aten::t": EventTotal(3, 7),
        "aten::addmm": EventTotal(1, 4),
        "aten::copy_": EventTotal(1, 1),
    }


def test_figures_of_a_cpu() -> None:
    """Two updates of 100 us. Operators: [10, 40], [50, 60], [110, 150]; a compiled graph: [105, 185]."""
    events = [
        op("aten::zeros", -50, 10),  # before the first update
        update(0, 100),
        op("aten::linear", 10, 30),
        op("aten::addmm", 20, 10),
        op("autograd::engine::evaluate_function: MmBackward0", 45, 25),
        op("MmBackward0", 46, 20),
        op("aten::mm", 50, 10),
        update(100, 100),
        op("## Call CompiledFxGraph fxyz ##", 105, 80),
        op("mkldnn::_linear_pointwise", 110, 40),
        op("aten::clone", 200, 10),  # after the last one
    ]
    figures = host_figures(events)
    assert figures.updates == 2
    assert figures.seconds == pytest.approx(100e-6)
    assert figures.operators == 1.5  # linear, mm, _linear_pointwise; addmm is inside linear
    assert figures.in_operators == pytest.approx((30 + 10 + 40) / 200)
    assert figures.in_graphs == pytest.approx((80 - 40) / 200)
    own = {row.name: row.microseconds for row in figures.rows}
    assert own["aten::linear"] == 10
    assert own["MmBackward0"] == 5
    assert own["## Call CompiledFxGraph fxyz ##"] == 20
    assert [row.microseconds for row in figures.rows] == sorted(own.values(), reverse=True)
    assert sum(row.share for row in figures.rows) == pytest.approx((30 + 25 + 80) / 200)


GPU = [
    kernel("before", -20, 10),
    call("cudaDeviceSynchronize", -5),
    update(0, 40),
    call("cudaLaunchKernel", 2),
    call("cudaLaunchKernelExC_v11060", 4),
    call("cudaMemcpyAsync", 6),
    call("cudaStreamSynchronize", 8),
    Event("cuLaunchKernel", 10, 1, "cuda_driver", HOST),
    Event(UPDATE, 5, 60, "gpu_user_annotation", STREAM),  # Kineto's shadow of the annotation
    Event("Stream Sync", 8, 10, "cuda_sync", STREAM),
    kernel("void gemm<float>(float*)", 5, 20),
    kernel("void add<float>(float*)", 15, 20, OTHER),
    Event("Memcpy DtoH (Device -> Pageable)", 40, 10, "gpu_memcpy", STREAM),
    update(60, 30),
    call("cudaGraphLaunch_v10000", 62),
    call("cudaMemcpy_v3020", 64),
    call("cudaEventRecord", 66),
    kernel("void gemm<float>(float*)", 70, 20),
    kernel("void add<float>(float*)", 90, 10),
    call("cudaDeviceSynchronize", 95),  # the recorder's own
]


def test_figures_of_a_gpu() -> None:
    """From 0 to 100 us, where the last kernel ends. The device works in [5, 35], [40, 50] and [70, 100]."""
    figures = device_figures(GPU)
    assert figures.updates == 2
    assert figures.seconds == pytest.approx(50e-6)
    assert figures.kernels == 2
    assert figures.launches == 2  # two of the runtime, one of the driver, one graph
    assert figures.idle == pytest.approx(0.3)
    assert figures.waits == 100  # one for a stream, one blocking copy, in two updates
    assert [(row.name, row.calls, row.microseconds) for row in figures.rows] == [
        ("void gemm<float>(float*)", 1, 20),
        ("void add<float>(float*)", 1, 15),
        ("Memcpy DtoH (Device -> Pageable)", 0.5, 5),
    ]
    assert figures.rows[0].share == pytest.approx(0.4)


def test_a_gpu_that_shows_nothing_is_idle() -> None:
    figures = device_figures([update(0, 40), update(40, 40)])
    assert figures.idle == 1
    assert figures.rows == []


def test_events_of_a_chrome_trace() -> None:
    rows = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0.0},
        {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 1.5, "dur": 2},
        {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": 1, "pid": 0, "tid": 7, "ts": 1.0},
    ]
    assert events_of({"traceEvents": rows}) == [Event("k", 1.5, 2.0, "kernel", (0, 7))]


def test_names() -> None:
    assert is_operator("aten::mm")
    assert is_operator("graph_0_cpp_fused_add_1")
    assert not is_operator("autograd::engine::evaluate_function: MmBackward0")
    assert not is_operator("MmBackward0")
    assert shorten_name("autograd::engine::evaluate_function: MmBackward0") == "autograd: MmBackward0"
    assert shorten_name("void at::native::(anonymous namespace)::cat<float, 4>(float*, int)") == "cat<float, 4>"
    assert shorten_name("Memcpy DtoH (Device -> Pageable)") == "Memcpy DtoH"
    assert shorten_name("## Call CompiledFxGraph fxyz ##") == "CompiledFxGraph: its fused kernels and calls"
    assert len(shorten_name("k" * 500)) == 72
