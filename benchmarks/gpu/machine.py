"""The machine: what it is, and what it is able to do."""

from __future__ import annotations

import platform
import subprocess
from functools import partial
from typing import Any

import torch

from dqlab.training.execution.program import missing_for_triton
from gpu.notes import Notes
from gpu.settings import Settings
from gpu.timing import median_seconds


def run(settings: Settings, notes: Notes) -> None:
    notes.attempt("machine", partial(facts, settings))
    for name, dtype, precision in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bf16", torch.bfloat16, "highest"),
    ):
        notes.attempt(f"product {name}", partial(product_rate, settings, dtype, precision))
    notes.attempt("copy", partial(copy_rate, settings))


def facts(settings: Settings) -> dict[str, Any]:
    """Names and versions."""
    known = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if settings.on_gpu:
        major, minor = torch.cuda.get_device_capability()
        memory = torch.cuda.get_device_properties(0).total_memory
        known |= {"gpu": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "driver": _driver()}
        known |= {"memory GiB": round(memory / 2**30, 1), "compiling lacks": missing_for_triton() or "nothing"}
    return known


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def product_rate(settings: Settings, dtype: torch.dtype, precision: str) -> dict[str, float]:
    """Tera-operations a second of a large matrix product of random numbers."""
    torch.set_float32_matmul_precision(precision)
    try:
        size = settings.sizes.product
        a, b = (torch.randn(size, size, device=settings.device).to(dtype) for _ in range(2))
        seconds = median_seconds(lambda: a @ b, settings.device)
    finally:
        torch.set_float32_matmul_precision("highest")
    return {"TFLOP/s": 2 * size**3 / seconds / 1e12}


def copy_rate(settings: Settings) -> dict[str, float]:
    """Bytes read and written a second, on the device."""
    source = torch.zeros(settings.sizes.copied // 4, device=settings.device)
    into = torch.empty_like(source)
    seconds = median_seconds(lambda: into.copy_(source), settings.device)
    return {"GB/s": 2 * settings.sizes.copied / seconds / 1e9}
