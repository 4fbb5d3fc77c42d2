"""Precision of the networks' matrix products. Losses, optimiser and averages keep the run's own type in any case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from dqlab.config.registry import Registry


class Precision:
    """How the networks' products are rounded."""

    float32_products = "highest"  # what `torch.set_float32_matmul_precision` is told
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)  # a run's types that it is for

    def unavailable_reason(self, device: torch.device) -> str:
        """What this machine lacks for it; empty where nothing is."""
        return ""

    def region(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which networks are called."""
        return nullcontext()


precisions: Registry[Callable[[], Precision]] = Registry(
    "precision", "How matrix products inside the networks are rounded.", "Experiment.precision"
)


@precisions.register("full", source="IEEE 754")
class Full(Precision):
    """In the run's own type, float32 by default."""


@precisions.register("tf32", source="NVIDIA Ampere and later")
class TF32(Precision):
    """Float32 operands rounded to 10 bits of mantissa, sums in float32: the tensor cores of a GPU."""

    float32_products = "high"
    dtypes = (torch.float32,)

    def unavailable_reason(self, device: torch.device) -> str:
        fits = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "" if fits else "a CUDA device of compute capability 8.0 or later"


@precisions.register("bf16", source="PyTorch's automatic mixed precision", cites=("paszke2019pytorch",))
class BFloat16(Precision):
    """Operands and activations in bfloat16 (7 bits of mantissa), sums in float32; weights are kept in float32."""

    dtypes = (torch.float32,)  # autocast leaves float64 alone

    def region(self, device: torch.device) -> AbstractContextManager[object]:
        # autocast's cache would outlive a captured graph
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


FULL = Full()
