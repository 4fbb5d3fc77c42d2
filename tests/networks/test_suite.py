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


class BatchStatistics(Base):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out = super().forward(noisy_action, t, state)
        return out - out.mean(dim=0)


class ReadsBack(Base):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out = super().forward(noisy_action, t, state)
        return 2 * out if float(self.layer.bias.detach().sum()) > 1e9 else out


class OnTheHost(Base):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out = super().forward(noisy_action, t, state)
        return out * torch.arange(1, 1 + out.shape[-1])


class OwnDropout(Base):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(noisy_action, t, state), 1e-9)


class DeadParameter(Base):
    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__(state_dim, action_dim)
        self.unused = nn.Parameter(torch.zeros(2))


class SingleOnly(Base):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return super().forward(noisy_action, t, state) * torch.ones((), dtype=torch.float64, device=state.device).view(
            1
        )


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


BAD_DENOISERS = {
    BatchStatistics: "a row depends on other rows",
    ReadsBack: "reads a value back",
    OnTheHost: "leaves the device",
    OwnDropout: "draws random numbers",
    DeadParameter: "no gradient reaches unused",
    SingleOnly: "in float32 it gives torch.float64",
    ForgetsState: "read back from its state dict",
    DeafTraining: "ignores its noise",
}


def entry(item: Any) -> RegistryEntry[Any]:
    return RegistryEntry("made", item, "", "", "")


def test_the_unspoilt_one_conforms() -> None:
    check_denoiser(entry(Base))


@pytest.mark.parametrize("bad", BAD_DENOISERS, ids=lambda bad: bad.__name__)
def test_bad_denoisers(bad: Callable[..., nn.Module]) -> None:
    with pytest.raises(AssertionError, match=BAD_DENOISERS[bad]):  # type: ignore[index]
        check_denoiser(entry(bad))


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
