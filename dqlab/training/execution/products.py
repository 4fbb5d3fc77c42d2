"""Matrix products of compiled programs.

On a CPU: PyTorch's own. It hands float32 products to MKL, which on AMD's processors does without AVX-512. Up to Zen 4
that costs nothing; from Zen 5 on oneDNN, also part of PyTorch, takes half the time with it. It is reached through the
operator that PyTorch's own compiler uses; where that is missing or gives a wrong product, PyTorch's choice stands.

On a GPU: products that are narrow (an action's six columns, a critic's one) are written as sums of elementwise
products, which the compiler fuses with what comes before and after them: a launch fewer for each of them, or two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dqlab.machine import processor_family
from dqlab.training.execution.torch_internals import onednn_linear

aten = torch.ops.aten
_library: Any = torch.library.Library("dqlab", "DEF")  # type: ignore[no-untyped-call]
_library.define("linear(Tensor a, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("linear", lambda a, weight, bias: onednn_linear(a, weight, bias), "CPU")
_library.impl("linear", lambda a, weight, bias: a.new_empty(a.shape[0], weight.shape[0]), "Meta")


@cache
def onednn_available() -> bool:
    """Whether oneDNN's product is there and right: tried on a small product, and on a transposed one."""
    try:
        a, b = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(4, 2)
        return torch.equal(onednn_linear(a, b.t()), a @ b) and torch.equal(onednn_linear(b.t(), a), b.t() @ a.t())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


@cache
def onednn_pays() -> bool:
    """Whether oneDNN multiplies faster than what PyTorch would call: by the processor, not by a trial that may vary."""
    vendor, family = processor_family()
    return vendor == "AuthenticAMD" and family >= 26 and onednn_available()  # Zen 5's, whose AVX-512 is 512 bits wide


START = 500_000
"""Multiplications below which PyTorch's product is faster: a call of oneDNN's takes ten microseconds to begin."""
FEW_COLUMNS = 64
"""A product of fewer columns than that, and than it has rows, takes up to a third of the time as the transposed one."""


def _by_rows(matrix: Tensor) -> Tensor:
    """The matrix stored by rows, as oneDNN wants its first one: the compiler's own copy is faster than oneDNN's."""
    return matrix if matrix.is_contiguous() else matrix.clone(memory_format=torch.contiguous_format)


def _mm(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Any:
    """Of plain float32 matrices on a CPU, none of them empty; NotImplemented where PyTorch's own product stands."""
    given = (a, b) if bias is None else (a, b, bias)
    plain = all(each.device.type == "cpu" and each.dtype == torch.float32 and each.numel() for each in given)
    if not plain or not onednn_pays():
        return NotImplemented
    few_columns = b.shape[1] < min(FEW_COLUMNS, a.shape[0])
    if bias is not None and (few_columns or bias.ndim != 1):
        return torch.mm(a, b) + bias
    if few_columns:
        return _by_rows(torch.mm(b.t(), a.t()).t())
    if a.numel() * b.shape[1] < START:
        return NotImplemented
    dense = b.t().is_contiguous() or b.is_contiguous()  # with gaps oneDNN takes a hundred times as long
    return torch.ops.dqlab.linear(_by_rows(a), (b if dense else _by_rows(b)).t(), bias)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    return _mm(a, b, bias) if beta == alpha == 1 else NotImplemented


NARROW = 8
"""Columns that make a product narrow: sums of so few terms are written out by PyTorch's compiler."""


def is_narrow(a: Tensor, b: Tensor) -> bool:
    """Whether a product (..., R, T) (..., T, C) of full precision sums few terms, or is one matrix of few columns."""
    few = a.shape[-1] <= NARROW or (b.ndim == 2 and b.shape[-1] <= NARROW)
    return few and a.dtype in (torch.float32, torch.float64) and min(*a.shape, *b.shape) > 0


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """The same product as sums of elementwise products, over the terms where they are few, else along rows."""
    if a.shape[-1] <= NARROW:
        return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2).contiguous()
    return (a.unsqueeze(-2) * b.transpose(-1, -2).unsqueeze(-3)).sum(-1).contiguous()


def _narrow(a: Tensor, b: Tensor) -> Any:
    return narrow_product(a, b) if is_narrow(a, b) else NotImplemented


def _narrow_plus(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if not is_narrow(a, b) or not beta or not alpha:  # PyTorch does not look at what is multiplied by 0
        return NotImplemented
    product = narrow_product(a, b)  # first, since the sum is laid out as its first summand
    return (product if alpha == 1 else alpha * product) + (bias if beta == 1 else beta * bias)


def product_decompositions(device: torch.device) -> dict[Any, Callable[..., Any]]:
    """What a program that is compiled for that device makes of PyTorch's matrix products."""
    if device.type == "cpu":
        return {aten.mm.default: _mm, aten.addmm.default: _addmm}
    sums = dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _narrow_plus)
    return {aten.mm.default: _narrow, aten.bmm.default: _narrow, **sums}
