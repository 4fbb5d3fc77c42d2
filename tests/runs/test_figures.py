"""What a profile says: of real operators on a CPU, and of hand-made traces of a GPU, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from dqlab.runs.profile import UPDATE, covered_time, device_figures, host_figures, is_operator, shorten_name


def test_figures_of_a_cpu() -> None:
    """Two updates of two operators, `linear` and `relu`; what they call, and what is outside, does not count."""
    layer, batch = torch.nn.Linear(8, 8), torch.ones(4, 8)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.zeros(3)
        for _ in range(2):
            with record_function(UPDATE), torch.no_grad():
                torch.relu(layer(batch))
    figures = host_figures(profiler)
    assert figures.facts["operators"] == "2.0"
    assert figures.summary.startswith("2 operators an update, ")
    shares = [float(figures.facts[name].rstrip("%")) for name in figures.facts if name.startswith("time ")]
    assert sum(shares) == pytest.approx(100, abs=0.11)
    assert min(shares) > 0
    rows = {row.name: row for row in figures.rows}
    assert (rows["aten::linear"].calls, rows["aten::addmm"].calls, rows["aten::relu"].calls) == (1, 1, 1)
    assert UPDATE not in rows
    own = [row.microseconds for row in figures.rows]
    assert own == sorted(own, reverse=True)
    assert own[0] <= 1e6 * figures.seconds


def row(name: str, kind: str, start: float, duration: float = 1.0) -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": duration}


GPU = [
    {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0.0},
    row("before", "kernel", -20, 10),
    row("cudaDeviceSynchronize", "cuda_runtime", -5),
    row(UPDATE, "user_annotation", 0, 40),
    row("cudaLaunchKernel", "cuda_runtime", 2),
    row("cudaLaunchKernelExC_v11060", "cuda_runtime", 4),
    row("cudaMemcpyAsync", "cuda_runtime", 6),
    row("cudaStreamSynchronize", "cuda_runtime", 8),
    row("cuLaunchKernel", "cuda_driver", 10),
    row(UPDATE, "gpu_user_annotation", 5, 60),  # Kineto's shadow of the annotation
    row("Stream Sync", "cuda_sync", 8, 10),
    row("void gemm<float>(float*)", "kernel", 5, 20),
    row("void add<float>(float*)", "kernel", 15, 20),  # on another stream
    row("Memcpy DtoH (Device -> Pageable)", "gpu_memcpy", 40, 10),
    row(UPDATE, "user_annotation", 60, 30),
    row("cudaGraphLaunch_v10000", "cuda_runtime", 62),
    row("cudaMemcpy_v3020", "cuda_runtime", 64),
    row("cudaEventRecord", "cuda_runtime", 66),
    row("void gemm<float>(float*)", "kernel", 70, 20),
    row("void add<float>(float*)", "kernel", 90, 10),
    row("cudaDeviceSynchronize", "cuda_runtime", 95),  # the recorder's own
]


def test_figures_of_a_gpu() -> None:
    """From 0 to 100 us, where the last kernel ends. The device works in [5, 35], [40, 50] and [70, 100]."""
    figures = device_figures({"traceEvents": GPU})
    assert figures.seconds == pytest.approx(50e-6)
    assert figures.summary == "2 kernels an update, device idle 30.0% of the time"
    assert figures.facts == {
        "kernels": "2.0",
        "launches": "2.0",  # two of the runtime, one of the driver, one graph
        "device idle": "30.0%",
        "host waits for the device": "100.0 times in 100 updates",  # one for a stream, one blocking copy
    }
    assert [(each.name, each.calls, each.microseconds) for each in figures.rows] == [
        ("void gemm<float>(float*)", 1, 20),
        ("void add<float>(float*)", 1, 15),
        ("Memcpy DtoH (Device -> Pageable)", 0.5, 5),
    ]
    assert figures.rows[0].share == pytest.approx(0.4)


def test_a_gpu_that_shows_nothing() -> None:
    figures = device_figures({"traceEvents": [row(UPDATE, "user_annotation", at, 40) for at in (0, 40)]})
    assert figures.facts["device idle"] == "not known: the trace has no kernels"
    assert figures.rows == []


def test_covered_time_counts_overlaps_once() -> None:
    """[0, 10] and [5, 12] and, inside the second, [6, 7]; then [20, 25]: 12 + 5."""
    assert covered_time([(20, 25), (0, 10), (5, 12), (6, 7)]) == 17
    assert covered_time([]) == 0


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
