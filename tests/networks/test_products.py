"""Products of compiled programs: whose they are on a CPU; narrow ones, written out for GPUs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab import machine
from dqlab.training.execution import products
from dqlab.training.execution.products import NARROW, is_narrow, narrow_product, product_decompositions
from dqlab.training.execution.program import Program, compile_program, cpp_compiler, trace_program

sides = st.integers(1, 12)
ADDMM = product_decompositions(torch.device("cuda"))[torch.ops.aten.addmm.default]


@settings(max_examples=20)
@given(rows=sides, terms=sides, columns=sides, batch=st.integers(0, 3))
def test_it_is_the_product(rows: int, terms: int, columns: int, batch: int) -> None:
    lead = (batch,) if batch else ()
    a, b = torch.randn(*lead, rows, terms).double(), torch.randn(*lead, columns, terms).double().transpose(-1, -2)
    torch.testing.assert_close(narrow_product(a, b), a @ b)
    few = terms <= NARROW or (not batch and columns <= NARROW)
    assert is_narrow(a, b) == few
    assert not is_narrow(a.bfloat16(), b.bfloat16())  # sums of elementwise products would be rounded at each


@pytest.mark.parametrize("terms", [3, 20])
def test_sums_with_a_bias_are_laid_out_as_they_were(terms: int) -> None:
    """Whoever views the result as a row may go on doing so."""
    bias, a, b = torch.randn(9, 10).double(), torch.randn(10, terms).double(), torch.randn(terms, 9).double()
    found = ADDMM(bias.t(), a, b, beta=0.5, alpha=2)
    if terms > NARROW:
        assert found is NotImplemented
    else:
        torch.testing.assert_close(found.view(-1), torch.addmm(bias.t(), a, b, beta=0.5, alpha=2).view(-1))
        assert narrow_product(b.t(), a.t()).is_contiguous()


@pytest.mark.parametrize("factors", [{"beta": 0}, {"alpha": 0}])
def test_what_is_multiplied_by_nothing_is_not_looked_at(factors: dict[str, int]) -> None:
    assert ADDMM(torch.full((2,), torch.nan), torch.ones(3, 3), torch.ones(3, 2), **factors) is NotImplemented


@pytest.mark.parametrize(
    ("listing", "pays"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2", True),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17", False),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6", False),
        ("processor\t: 0\nBogoMIPS\t: 50.00", False),
    ],
)
def test_onednn_multiplies_where_mkl_is_half_as_fast(
    listing: str, pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Zen 5 on, float32 unless it is small; it is the same, and laid out by rows, though computed transposed."""
    (found := tmp_path / "cpuinfo").write_text(listing)
    monkeypatch.setattr(machine, "CPUINFO", found)
    products.onednn_pays.cache_clear()
    sizes = {"large": (90, 80, 100), "small": (5, 3, 4), "narrow": (256, 256, 39), "narrow and small": (256, 256, 6)}
    try:
        for kind, (size, (rows, terms, columns)) in product((torch.float32, torch.bfloat16), sizes.items()):
            a, b, ones = torch.randn(terms, rows).t() / terms**0.5, torch.randn(terms, columns), torch.ones(columns)
            a, b, ones = a.to(kind), b.to(kind), ones.to(kind)
            graph = trace_program(lambda x, y: (x @ y).view(-1), [a, b])
            graph_with_bias = trace_program(lambda x, y, bias: torch.addmm(bias, x, y), [a, b, ones])
            names = {str(node.target) for node in graph.graph.nodes}
            by_onednn = pays and ("small" not in size or kind == torch.bfloat16)
            assert ("dqlab.linear.default" in names, "aten.mm.default" in names) == (by_onednn, not by_onednn), size
            close: Any = {"rtol": 1e-5, "atol": 1e-5} if kind == torch.float32 else {"rtol": 0.016, "atol": 0.016}
            torch.testing.assert_close(graph(a, b), (a @ b).reshape(-1), **close)
            torch.testing.assert_close(graph_with_bias(a, b, ones), a @ b + 1, **close)
    finally:
        products.onednn_pays.cache_clear()


@pytest.mark.skipif(not cpp_compiler(), reason="needs a C++ compiler")
def test_compiled_code_calls_onednn_without_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with and without a bias, of matrices by rows, by columns, and with gaps between their rows."""
    assert products.onednn_available()
    monkeypatch.setattr(products, "onednn_pays", lambda: True)
    monkeypatch.setattr(products, "onednn_linear", None)  # what Python would call
    a, b, bias = torch.randn(90, 80), torch.randn(80, 200), torch.randn(100)

    def function(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        a, b, bias = tensors["a"], tensors["b"], tensors["bias"]
        by_columns = b[:, :100].t().contiguous().t()
        return a @ b[:, :100], torch.addmm(bias, a, by_columns), (a.t() + 1).t() @ by_columns

    tensors = {"a": a, "b": b, "bias": bias}
    for found, wanted in zip(compile_program(Program(function, tensors))(tensors), function(tensors), strict=True):
        torch.testing.assert_close(found, wanted)
