"""Denoisers: their parts against formulas, dropout's masks; test_rivals.py has embeddings of times."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from dqlab.config.registry import RegistryEntry
from dqlab.errors import ConfigError
from dqlab.networks import denoisers
from dqlab.networks.denoiser import (
    FiLMDenoiser,
    FourierFeatures,
    LNResnet,
    MLPDenoiser,
    SelfAttention,
    TransformerDenoiser,
    modulate,
)
from dqlab.testing import one_noise
from dqlab.tools.conformance.networks import check_denoiser

S, A, B = 5, 6, 4


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(B, A, generator=generator, dtype=torch.float64)
    return action, torch.arange(B), torch.randn(B, S, generator=generator, dtype=torch.float64)


def test_residual_denoiser_trains_with_dropout_and_acts_without() -> None:
    """Inverted dropout before each block's LayerNorm, of what goes around the block nothing is dropped."""
    module = LNResnet(S, A, hidden_dim=32, dropout=0.25).double()
    noise = one_noise(module.training_noise(B))
    assert noise["dropout"].shape == (3, B, 32)
    kept = (noise["dropout"] >= 0.25) / 0.75
    for found, masks in (
        (module.train_forward(*inputs(), noise), kept),
        (module(*inputs()), torch.ones_like(kept)),
    ):
        hidden = module.enter(*inputs())
        for block, mask in zip(module.blocks, masks, strict=True):
            first, active, last = block.layers
            hidden = hidden + last(active(first(layer_norm(hidden * mask, (32,)))))
        assert torch.allclose(found, module.final_layer(module.activation(hidden)))


def test_frequencies_of_fourier_features_are_drawn_with_a_deviation_of_a_fifth() -> None:
    assert abs(float(FourierFeatures(20_000).frequencies.detach().std()) - 0.2) < 0.01


def test_modulation_by_hand() -> None:
    """1 and 3 have mean 2 and deviation 1, so they become -1 and 1; then times 1 + scale, plus shift."""
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    out = modulate(x, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 10.0]]))
    assert torch.allclose(out, torch.tensor([[-2.0, 11.0]], dtype=torch.float64), atol=1e-4)


def test_film_begins_with_blocks_that_do_nothing() -> None:
    module = FiLMDenoiser(S, A, hidden_dim=8).double()
    x, condition = torch.randn(2, B, 8, dtype=torch.float64)
    assert torch.equal(module.blocks[0](x, condition), x)
    nn.init.constant_(module.final_layer.bias, 0.5)
    assert torch.equal(module(*inputs()), torch.full((B, A), 0.5, dtype=torch.float64))


def test_attention_like_pytorchs() -> None:
    ours, theirs = SelfAttention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    own = {"in_proj_weight": ours.into.weight, "in_proj_bias": torch.zeros(24)}
    theirs.load_state_dict({**own, "out_proj.weight": ours.out.weight, "out_proj.bias": ours.out.bias})
    tokens = torch.randn(B, 5, 8, dtype=torch.float64)
    assert torch.allclose(ours(tokens), theirs(tokens, tokens, tokens)[0])


@pytest.mark.parametrize(("chunk", "tokens", "filled"), [(1, 6, 0), (4, 2, 2), (9, 1, 3)])
def test_transformer_cuts_actions_into_chunks(chunk: int, tokens: int, filled: int) -> None:
    module = TransformerDenoiser(S, A, hidden_dim=8, chunk=chunk).double()
    action = torch.arange(1.0, 1 + B * A, dtype=torch.float64).view(B, A)
    chunks = module.chunks(action)
    assert chunks.shape == (B, tokens, chunk)
    wanted = torch.cat([action, torch.zeros(B, filled, dtype=torch.float64)], dim=1)
    assert torch.equal(chunks.flatten(start_dim=1), wanted)
    assert module(*inputs()).shape == (B, A)


@pytest.mark.parametrize("make", [partial(MLPDenoiser, time_dim=1), partial(LNResnet, dropout=0.0)])
def test_other_forms_conform(make: partial[nn.Module]) -> None:
    check_denoiser(RegistryEntry("made", partial(make, hidden_dim=8)))


MISTAKES = [
    ("transformer", {"n_heads": 3}, "must be a multiple of n_heads"),
    ("ln_resnet", {"dropout": 1.0}, "at least 0 and below 1, not 1.0"),
    ("ln_resnet", {"norm_eps": 0.0}, "norm_eps must be positive, not 0.0"),
    ("ln_resnet", {"time_dim": 3}, "must be even"),
    ("film_mlp", {"time_dim": 3}, "must be even"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES)
def test_mistakes_are_one_clear_message(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        denoisers.get(name)(S, A, **options)
