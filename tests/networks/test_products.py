"""Narrow products, written out for GPUs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.training.execution.products import NARROW, is_narrow, narrow_product, product_decompositions

sides = st.integers(1, 12)


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
def test_sums_with_a_bias(terms: int) -> None:
    rule = product_decompositions(torch.device("cuda"))[torch.ops.aten.addmm.default]
    bias, a, b = torch.randn(9).double(), torch.randn(10, terms).double(), torch.randn(terms, 9).double()
    found = rule(bias, a, b, beta=0.5, alpha=2)
    if terms > NARROW:
        assert found is NotImplemented
    else:
        torch.testing.assert_close(found, torch.addmm(bias, a, b, beta=0.5, alpha=2))


def test_it_is_laid_out_as_a_product_is() -> None:
    """Whoever views the result as a row may go on doing so."""
    rule = product_decompositions(torch.device("cuda"))[torch.ops.aten.addmm.default]
    bias, a, b = torch.randn(4, 5).double(), torch.randn(5, 3).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(rule(bias.t(), a, b).view(-1), torch.addmm(bias.t(), a, b).view(-1))
    assert narrow_product(b.t(), a.t()).is_contiguous()


@pytest.mark.parametrize("factors", [{"beta": 0}, {"alpha": 0}])
def test_what_is_multiplied_by_nothing_is_not_looked_at(factors: dict[str, int]) -> None:
    rule = product_decompositions(torch.device("cuda"))[torch.ops.aten.addmm.default]
    assert rule(torch.full((2,), torch.nan), torch.ones(3, 3), torch.ones(3, 2), **factors) is NotImplemented
