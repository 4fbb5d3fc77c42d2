"""Matrix products of compiled programs on a CPU: by oneDNN.

PyTorch hands float32 products to MKL, which on AMD's processors does not use AVX-512: oneDNN, also part of PyTorch,
takes half the time there. It is reached through the operator that PyTorch's own compiler uses; where that operator is
missing or does not give the right product, PyTorch's choice stands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_library: Any = torch.library.Library("dqlab", "DEF")  # type: ignore[no-untyped-call]
_library.define("mm(Tensor a, Tensor b) -> Tensor")
_library.define("addmm(Tensor bias, Tensor a, Tensor b) -> Tensor")


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(a), _dense(b).t(), bias, "none", [], "")
    return out


def _dense(matrix: Tensor) -> Tensor:
    """A matrix stored by rows or by columns without gaps: with gaps oneDNN takes a hundred times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _shape_of_product(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_library.impl("mm", lambda a, b: _product(a, b), "CPU")
_library.impl("addmm", lambda bias, a, b: _product(a, b, bias), "CPU")
_library.impl("mm", lambda a, b: _shape_of_product(a, b), "Meta")
_library.impl("addmm", lambda bias, a, b: _shape_of_product(a, b), "Meta")


@cache
def available() -> bool:
    """Whether oneDNN's product is there and right: tried on a small product, and on a transposed one."""
    try:
        a, b = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(4, 2)
        right = torch.equal(_product(a, b), a @ b) and torch.equal(_product(b.t(), a.t()), b.t() @ a.t())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return right


def _fits(*matrices: Tensor) -> bool:
    """Plain float32 matrices on a CPU, none of them empty."""
    return available() and all(m.device.type == "cpu" and m.dtype == torch.float32 and m.numel() for m in matrices)


def _mm(a: Tensor, b: Tensor) -> Any:
    return torch.ops.dqlab.mm(a, b) if _fits(a, b) else NotImplemented


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if not _fits(bias, a, b) or beta != 1 or alpha != 1:
        return NotImplemented
    return torch.ops.dqlab.addmm(bias, a, b) if bias.ndim == 1 else torch.ops.dqlab.mm(a, b) + bias


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.mm.default: _mm, torch.ops.aten.addmm.default: _addmm}
"""What a compiled program makes of PyTorch's matrix products."""
