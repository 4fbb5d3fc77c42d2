"""Denoisers: their parts against formulas, dropout's masks, what a chain shares."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dqlab.config.registry import RegistryEntry
from dqlab.errors import ConfigError
from dqlab.networks import denoisers
from dqlab.networks.denoiser import (
    FiLMBlock,
    FiLMDenoiser,
    FourierFeatures,
    LNResnet,
    MLPDenoiser,
    ResidualBlock,
    SelfAttention,
    SinusoidalEmbedding,
    TransformerDenoiser,
    modulate,
)
from dqlab.networks.mlp import mlp
from dqlab.noise import draw_noise, generator_for
from dqlab.testing import one_noise
from dqlab.tools.conformance.made import with_moved_parameters
from dqlab.tools.conformance.networks import check_denoiser

S, A, B = 5, 6, 4


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(B, A, generator=generator, dtype=torch.float64)
    return action, torch.arange(B), torch.randn(B, S, generator=generator, dtype=torch.float64)


def test_mlp_with_layer_norm_before_the_activation() -> None:
    layers = mlp([3, 4, 2], activation="tanh", layer_norm=True).double()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "LayerNorm", "Tanh", "Linear"]
    x = torch.randn(6, 3, dtype=torch.float64)
    hidden = x @ layers[0].weight.T + layers[0].bias
    centred = hidden - hidden.mean(dim=-1, keepdim=True)
    normal = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    wanted = normal.tanh() @ layers[3].weight.T + layers[3].bias
    assert torch.allclose(layers(x), wanted)


def test_mlp_denoiser_keeps_the_official_names() -> None:
    names = [name for name, _ in MLPDenoiser(S, A).named_parameters() if name.endswith("weight")]
    assert names == [f"time_mlp.{i}.weight" for i in (0, 2)] + [
        *(f"mid_layer.{i}.weight" for i in (0, 2, 4)),
        "final_layer.weight",
    ]


def test_dropout_mask_drops_its_share_and_keeps_the_mean() -> None:
    module = LNResnet(S, A, hidden_dim=64, dropout=0.25)
    noise = draw_noise(module.training_noise(1000), generator_for(0, "test", 0), torch.float64)["dropout"]
    assert noise.shape == (3, 1000, 64)
    module.rest = lambda hidden, masks: masks  # type: ignore[method-assign]
    mask = module.double().train_forward(*inputs(), {"dropout": noise})
    assert abs(float((mask == 0).double().mean()) - 0.25) < 0.005
    assert abs(float(mask.mean()) - 1) < 0.005
    assert mask.unique().tolist() == [0.0, 1 / 0.75]


def test_residual_block_by_formula() -> None:
    block = ResidualBlock(4, 4, "relu").double()
    x, mask = torch.randn(B, 4, dtype=torch.float64), torch.tensor([0.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    first, last = block.layers[0], block.layers[2]
    assert (first.out_features, last.out_features) == (16, 4)
    normal = functional.layer_norm(x * mask, (4,))
    assert torch.allclose(block(x, mask), x + last(first(normal).relu()))
    assert torch.allclose(block(x), x + last(first(functional.layer_norm(x, (4,))).relu()))


def test_residual_denoiser_trains_with_dropout_and_acts_without() -> None:
    """Where nothing is dropped, the mask is a factor, which LayerNorm takes out again (but for its epsilon)."""
    module = LNResnet(S, A, hidden_dim=32).double()
    nothing = {"dropout": torch.full((3, B, 32), 0.5, dtype=torch.float64)}
    forward = module(*inputs())
    assert torch.allclose(module.train_forward(*inputs(), nothing), forward, atol=1e-3)
    dropped = module.train_forward(*inputs(), one_noise(module.training_noise(B)))
    assert not torch.allclose(dropped, forward, atol=1e-2)
    everything = {"dropout": torch.zeros(3, B, 32, dtype=torch.float64)}
    bare = module.enter(*inputs())
    for block in module.blocks:
        bare = bare + block.layers(block.norm.bias)
    assert torch.allclose(module.train_forward(*inputs(), everything), module.final_layer(module.activation(bare)))


def test_fourier_features_by_hand() -> None:
    """Frequencies 1/4 and 1/2 at t = 1: cosines of pi/2 and pi, then sines."""
    features = FourierFeatures(4).double()
    with torch.no_grad():
        features.frequencies.copy_(torch.tensor([0.25, 0.5]))
    wanted = torch.tensor([[0.0, -1.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(features(torch.ones(1, dtype=torch.float64)), wanted, atol=1e-12)
    assert abs(float(FourierFeatures(20_000).frequencies.detach().std()) - 0.2) < 0.01


def test_modulation_by_hand() -> None:
    """1 and 3 have mean 2 and deviation 1, so they become -1 and 1; then times 1 + scale, plus shift."""
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    out = modulate(x, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 10.0]]))
    assert torch.allclose(out, torch.tensor([[-2.0, 11.0]], dtype=torch.float64), atol=1e-4)


def test_film_begins_as_the_identity() -> None:
    block = FiLMBlock(8, 2, "mish").double()
    x, condition = torch.randn(B, 8, dtype=torch.float64), torch.randn(B, 8, dtype=torch.float64)
    assert torch.equal(block(x, condition), x)
    module = FiLMDenoiser(S, A, hidden_dim=8).double()
    assert torch.equal(module(*inputs()), torch.zeros(B, A, dtype=torch.float64))
    nn.init.constant_(module.final_layer.bias, 0.5)
    assert torch.equal(module(*inputs()), torch.full((B, A), 0.5, dtype=torch.float64))


def test_attention_like_pytorchs() -> None:
    ours, theirs = SelfAttention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.into.weight,
            "in_proj_bias": torch.zeros(24),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    tokens = torch.randn(B, 5, 8, dtype=torch.float64)
    assert torch.allclose(ours(tokens), theirs(tokens, tokens, tokens)[0])


@pytest.mark.parametrize(("chunk", "tokens", "filled"), [(1, 6, 0), (2, 3, 0), (4, 2, 2), (6, 1, 0), (9, 1, 3)])
def test_transformer_cuts_actions_into_chunks(chunk: int, tokens: int, filled: int) -> None:
    module = TransformerDenoiser(S, A, hidden_dim=8, chunk=chunk).double()
    action = torch.arange(1.0, 1 + B * A, dtype=torch.float64).view(B, A)
    chunks = module.chunks(action)
    assert chunks.shape == (B, tokens, chunk)
    assert torch.equal(chunks.flatten(start_dim=1)[:, :A], action)
    assert torch.equal(chunks.flatten(start_dim=1)[:, A:], torch.zeros(B, filled, dtype=torch.float64))
    assert module.positions.shape == (2 + tokens, 8)
    assert module(*inputs()).shape == (B, A)


def test_a_time_that_is_not_embedded() -> None:
    """It enters the first layer as it is; nothing else than that layer knows of it."""
    action, _, state = inputs()
    module = with_moved_parameters(MLPDenoiser(S, A, time_dim=1))
    assert not [name for name, _ in module.named_parameters() if name.startswith("time")]
    t = torch.linspace(0, 1, len(action)).double()
    column = torch.cat([action, t.unsqueeze(-1), state], dim=-1)
    assert torch.allclose(module(action, t, state), module.final_layer(module.mid_layer(column)))
    for made in (partial(MLPDenoiser, hidden_dim=8, time_dim=1), partial(LNResnet, hidden_dim=8, dropout=0.0)):
        check_denoiser(RegistryEntry("made", made))


def test_the_frequencies_of_a_time_embedding_end_at_or_before_their_limit() -> None:
    angles = [SinusoidalEmbedding(8, endpoint)(torch.ones(1).double())[0, :4].asin() for endpoint in (True, False)]
    assert torch.allclose(angles[0][1:], 10000.0 ** -torch.tensor([1 / 3, 2 / 3, 1.0]).double())
    assert torch.allclose(angles[1][1:], 10000.0 ** -torch.tensor([1 / 4, 2 / 4, 3 / 4]).double())


MISTAKES = [
    ("transformer", {"n_heads": 3}, "must be a multiple of n_heads"),
    ("ln_resnet", {"dropout": 1.0}, "at least 0 and below 1, not 1.0"),
    ("ln_resnet", {"time_dim": 3}, "must be even"),
    ("film_mlp", {"time_dim": 3}, "must be even"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES)
def test_mistakes_are_one_clear_message(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        denoisers.get(name)(S, A, **options)
