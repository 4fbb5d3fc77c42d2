"""Precisions of the networks' products: what they change, what they leave alone, and what they need."""

from __future__ import annotations

import pytest
import torch

from dqlab.algorithms.diffusion_ql import DiffusionQL
from dqlab.data.transitions import map_fields
from dqlab.networks.precision import precisions
from dqlab.policies.base import Dims
from dqlab.training import Pack
from dqlab.training.probe import made_up_update

DIMS = Dims(17, 6)


def after_an_update(name: str, dtype: torch.dtype = torch.float32) -> tuple[Pack, dict[str, torch.Tensor]]:
    pack = Pack([DiffusionQL()] * 2, DIMS, [0, 1], dtype=dtype, precision=precisions.get(name)(), width=2)
    batch, noise = made_up_update(Pack([DiffusionQL()], DIMS, [0], dtype=dtype), 64)
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(2, 64, 17, generator=generator).to(dtype)
    made = map_fields(lambda field: field.expand(2, *field.shape[1:]), batch)._replace(state=state, next_state=state)
    info = pack.update(made, {key: value.expand(2, *value.shape[1:]) for key, value in noise.items()})
    return pack, info


def test_bf16_rounds_products_and_nothing_else() -> None:
    """Losses differ by bfloat16's rounding (8 bits); losses, parameters and moments stay float32."""
    (full, wanted), (half, info) = after_an_update("full"), after_an_update("bf16")
    for name, value in info.items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, wanted[name]), name
        assert torch.allclose(value, wanted[name], rtol=0.05, atol=0.02), name
    assert all(tensor.dtype == torch.float32 for tensor in half.state.parameters.values())
    assert all(tensor.dtype == torch.float32 for both in half.state.moments.values() for tensor in both)
    gradient, exact = half.state.moments["critic"][0], full.state.moments["critic"][0]
    assert float(torch.nn.functional.cosine_similarity(gradient, exact).min()) > 0.99


def test_full_precision_is_the_default() -> None:
    (_, wanted), (_, info) = after_an_update("full"), after_an_update("full")
    assert all(torch.equal(info[name], wanted[name]) for name in info)
    assert precisions.get("full")().float32_products == "highest"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_tf32_needs_a_gpu() -> None:
    assert "CUDA" in precisions.get("tf32")().unavailable_reason(torch.device("cpu"))
