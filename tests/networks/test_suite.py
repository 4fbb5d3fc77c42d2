"""The conformance suite catches networks that do not keep to their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqlab.config.registry import RegistryEntry
from dqlab.networks.ensembles import TwinCritic
from dqlab.noise import NoiseSpec, uniform
from dqlab.tools.conformance.networks import check_activation, check_critic, check_denoiser, check_value_loss


class Base(nn.Module):
    """A denoiser that conforms, to be spoilt."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(state_dim + action_dim + 1, action_dim)

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.cat([noisy_action, t.to(state.dtype).unsqueeze(-1), state], dim=-1)).tanh()
        return out


def spoilt(method: str, spoil: Callable[..., Any]) -> type[nn.Module]:
    """The denoiser with a method that calls the sound one, its first argument, and does wrong."""

    def wrong(self: nn.Module, *given: Any) -> Any:
        return spoil(lambda *values: getattr(Base, method)(self, *values), self, *given)

    return type("Spoilt", (Base,), {method: wrong})


class DeadParameter(Base):
    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__(state_dim, action_dim)
        self.unused = nn.Parameter(torch.zeros(2))


class ForgetsState(Base):
    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__(state_dim, action_dim)
        self.factor = torch.rand(1).item()

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return super().forward(noisy_action, t, state) * self.factor


class DeafTraining(Base):
    def training_noise(self, batch: int) -> dict[str, NoiseSpec]:
        return {"dropout": uniform(batch, 3)}

    def train_forward(self, noisy_action: Tensor, t: Tensor, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return self(noisy_action, t, state)


def single_only(sound: Callable[..., Tensor], self: nn.Module, *given: Tensor) -> Tensor:
    return sound(*given) * torch.ones(1, dtype=torch.float64, device=given[0].device)


def of_batch(sound: Callable[..., Tensor], self: nn.Module, *given: Tensor) -> Tensor:
    return sound(*given) - sound(*given).mean(dim=0)


def read_back(sound: Callable[..., Tensor], self: Any, *given: Tensor) -> Tensor:
    return 2 * sound(*given) if float(self.layer.bias.detach().sum()) > 1e9 else sound(*given)


BAD_DENOISERS = {
    "a row depends on other rows": spoilt("forward", of_batch),
    "reads a value back": spoilt("forward", read_back),
    "leaves the device": spoilt("forward", lambda sound, self, *given: sound(*given) * torch.arange(1, 4)),
    "draws random numbers": spoilt("forward", lambda sound, self, *given: nn.functional.dropout(sound(*given), 1e-9)),
    "no gradient reaches unused": DeadParameter,
    "in float32 it gives torch.float64": spoilt("forward", single_only),
    "read back from its state dict": ForgetsState,
    "ignores its noise": DeafTraining,
}


def entry(item: Any) -> RegistryEntry[Any]:
    return RegistryEntry("made", item, "", "", "")


def test_the_unspoilt_one_conforms() -> None:
    check_denoiser(entry(Base))


@pytest.mark.parametrize("message", BAD_DENOISERS)
def test_bad_denoisers(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_denoiser(entry(BAD_DENOISERS[message]))


class Scalar(TwinCritic):
    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return outputs.amin(dim=0).squeeze(-1)


class Vector(TwinCritic):
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).square().mean(dim=(1, 2))


class OwnSubset(TwinCritic):
    def backup(self, outputs: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return outputs[torch.randperm(2)[:1]].amin(dim=0)


BAD_CRITICS = {Scalar: r"instead of \(7, Z\)", Vector: "must be a scalar", OwnSubset: "draws random numbers"}


@pytest.mark.parametrize("bad", BAD_CRITICS, ids=lambda bad: bad.__name__)
def test_bad_critics(bad: type[TwinCritic]) -> None:
    with pytest.raises(AssertionError, match=BAD_CRITICS[bad]):
        check_critic(entry(bad))


def test_bad_activations_and_value_losses() -> None:
    with pytest.raises(AssertionError, match="it is linear"):
        check_activation(entry(nn.Identity))
    with pytest.raises(AssertionError, match="depends on others"):
        check_activation(entry(lambda: nn.Softmax(dim=0)))
    with pytest.raises(AssertionError, match="not least where V is Q"):
        check_value_loss(entry(lambda u: (u - 1).square()))
    with pytest.raises(AssertionError, match="not convex"):
        check_value_loss(entry(lambda u: u.abs().sqrt()))
    with pytest.raises(AssertionError, match="not finite"):
        check_value_loss(entry(lambda u: u.exp() - u))
