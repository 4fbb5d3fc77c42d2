"""Adam and clipping on rows, against PyTorch's own on each row alone."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.training.optimiser import adam_step, bias_corrections, clip_by_norm

RATES = [1e-2, 3e-4, 0.0]


@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_rows_are_torchs_adam_with_their_own_rate(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    alone = [torch.nn.Parameter(row.clone()) for row in rows]
    optimisers = [torch.optim.Adam([row], lr=rate) for row, rate in zip(alone, RATES, strict=True)]
    moments = (torch.zeros_like(rows), torch.zeros_like(rows))
    for step in range(1, 6):
        gradient = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        first, root = bias_corrections(step)
        rates = torch.tensor(RATES, dtype=torch.float64) / first
        adam_step(rows, moments, gradient, rates, torch.full((3,), root, dtype=torch.float64))
        for parameter, row, optimiser in zip(alone, gradient, optimisers, strict=True):
            parameter.grad = row.clone()
            optimiser.step()
    for row, parameter in zip(rows, alone, strict=True):
        assert torch.allclose(row, parameter.detach(), rtol=0, atol=1e-14)


@settings(max_examples=8)
@given(scale=st.floats(1e-3, 1e3))
def test_rows_are_torchs_clipping_with_their_own_bound(scale: float) -> None:
    bounds = torch.tensor([1.0, 7.0, 0.0], dtype=torch.float64)
    gradient = scale * torch.arange(12, dtype=torch.float64).view(3, 4)
    clipped = clip_by_norm(gradient, bounds)
    for row, bound, result in zip(gradient, bounds.tolist(), clipped, strict=True):
        parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        parameter.grad = row.clone()
        if bound > 0:
            torch.nn.utils.clip_grad_norm_([parameter], bound)
        assert torch.allclose(result, parameter.grad, rtol=1e-12, atol=0)
