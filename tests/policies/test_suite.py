"""The conformance suites of networks, policies and selections catch what does not keep to its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqlab.config.registry import RegistryEntry
from dqlab.networks.ensembles import CriticEnsemble, QNetwork, TwinCritic
from dqlab.noise import NoiseSpec, normal, uniform
from dqlab.policies.gaussian import DeterministicPolicy
from dqlab.policies.selection import Argmax
from dqlab.tools.conformance.networks import (
    check_activation,
    check_critic,
    check_denoiser,
    check_policy,
    check_selection,
    check_value_loss,
)


def entry(item: Any) -> RegistryEntry[Any]:
    return RegistryEntry("made", item, "", "", "")


def spoilt(base: type, **methods: Callable[..., Any]) -> type:
    """A class whose methods call the sound one's, given as their first argument, and do wrong."""

    def wrong(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *given: method(lambda *values: getattr(base, name)(self, *values), *given)

    return type("Spoilt", (base,), {name: wrong(name, method) for name, method in methods.items()})


class Base(nn.Module):
    """A denoiser that conforms, to be spoilt."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(state_dim + action_dim + 1, action_dim)

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.cat([noisy_action, t.to(state.dtype).unsqueeze(-1), state], dim=-1)).tanh()
        return out


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


def single_only(sound: Callable[..., Tensor], *given: Tensor) -> Tensor:
    return sound(*given) * torch.ones(1, dtype=torch.float64, device=given[0].device)


def read_value(sound: Callable[..., Tensor], *given: Tensor) -> Tensor:
    out = sound(*given)
    return 2 * out if float(out.detach().sum()) > 1e9 else out


BAD_DENOISERS = {
    "a row depends on other rows": spoilt(Base, forward=lambda sound, *given: sound(*given) - sound(*given).mean(0)),
    "reads a value back": spoilt(Base, forward=read_value),
    "leaves the device": spoilt(Base, forward=lambda sound, *given: sound(*given) * torch.arange(1, 4)),
    "draws random numbers": spoilt(Base, forward=lambda sound, *given: nn.functional.dropout(sound(*given), 1e-9)),
    "no gradient reaches unused": DeadParameter,
    "in float32 it gives torch.float64": spoilt(Base, forward=single_only),
    "read back from its state dict": ForgetsState,
    "ignores its noise": DeafTraining,
}


def test_the_unspoilt_one_conforms() -> None:
    check_denoiser(entry(Base))


@pytest.mark.parametrize("message", BAD_DENOISERS)
def test_of_denoisers(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_denoiser(entry(BAD_DENOISERS[message]))


class Scaled(QNetwork):
    """A critic whose members differ in more than parameters."""

    def __init__(self, scale: float) -> None:
        super().__init__(5, 3, hidden_dim=4)
        self.scale = scale

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.scale * super().forward(state, action)


def scalar_backup(sound: Callable[..., Tensor], *given: Any) -> Tensor:
    return sound(*given).squeeze(-1)


def loss_of_each(sound: Callable[..., Tensor], outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target).square().mean(dim=(1, 2))


def own_subset(sound: Callable[..., Tensor], outputs: Tensor, noise: Any) -> Tensor:
    return outputs[torch.randperm(2)[:1]].amin(dim=0)


BAD_CRITICS: dict[str, Callable[..., Any]] = {
    r"instead of \(7, Z\)": spoilt(TwinCritic, backup=scalar_backup),
    "must be a scalar": spoilt(TwinCritic, loss=loss_of_each),
    "draws random numbers": spoilt(TwinCritic, backup=own_subset),
    "or give NaN": spoilt(TwinCritic, ranking_value=lambda sound, q: sound(q) * torch.nan),
    "they are not alike": lambda *sizes: CriticEnsemble([Scaled(1.0), Scaled(2.0)], alike=True),
}


@pytest.mark.parametrize("message", BAD_CRITICS)
def test_of_critics(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_critic(entry(BAD_CRITICS[message]))


@pytest.mark.parametrize(
    ("check", "item", "message"),
    [
        (check_activation, nn.Identity, "it is linear"),
        (check_activation, lambda: nn.Softmax(dim=0), "depends on others"),
        (check_value_loss, lambda u: (u - 1).square(), "not least where V is Q"),
        (check_value_loss, lambda u: u.abs().sqrt(), "not convex"),
        (check_value_loss, lambda u: u.exp() - u, "not finite"),
    ],
)
def test_of_activations_and_value_losses(check: Callable[..., None], item: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(entry(item))


class Spare(nn.Linear):
    """A network with a parameter that nothing uses."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.spare = nn.Parameter(torch.zeros(2))


def own_dice(sound: Callable[..., Tensor], *given: Any) -> Tensor:
    action = sound(*given)
    return (action + 1e-3 * torch.randn(action.shape)).clamp(-1, 1)


def of_mean(sound: Callable[..., Tensor], network: Any, dims: Any, state: Tensor, noise: Any) -> Tensor:
    return sound(network, dims, state - state.mean(dim=0), noise)


def on_the_host(sound: Callable[..., Tensor], network: Any, dims: Any, state: Tensor, *given: Any) -> Tensor:
    return sound(network, dims, state, *given) * torch.arange(1, len(state) + 1)


@pytest.mark.parametrize(
    ("message", "methods"),
    [
        ("out of range", {"sample": lambda sound, network, dims, state, noise: network(state)}),
        ("depends on other rows", {"sample": of_mean}),
        ("random numbers of its own", {"sample": own_dice}),
        ("no gradient reaches spare", {"build": lambda sound, dims: Spare(dims.state, dims.action)}),
        ("does not depend on the parameters", {"sample": lambda sound, *given: sound(*given).detach()}),
        ("leaves the device", {"losses": on_the_host}),
        ("losses: shape", {"losses": lambda sound, *given: sound(*given).mean()}),
    ],
)
def test_of_policies(message: str, methods: dict[str, Callable[..., Any]]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_policy(entry(dataclass(frozen=True)(spoilt(DeterministicPolicy, **methods))))


def best_of_all_states(sound: Callable[..., Tensor], candidates: Tensor, q: Tensor, *given: Any) -> Tensor:
    return q.amin(dim=0).sum(dim=1).argmax().expand(q.shape[-1])


def read_back(sound: Callable[..., Tensor], candidates: Tensor, q: Tensor, *given: Any) -> Tensor:
    return torch.full((q.shape[-1],), int(q.sum() > 0), device=q.device)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("out of range", lambda sound, *given: sound(*given) + len(given[0])),
        ("order of the candidates", lambda sound, *given: torch.zeros_like(sound(*given))),
        ("another state's candidates", best_of_all_states),
        ("reads a value back", read_back),
        ("index has shape", lambda sound, *given: sound(*given).unsqueeze(-1)),
    ],
)
def test_of_selections(message: str, call: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_selection(entry(dataclass(frozen=True)(spoilt(Argmax, __call__=call))))


def test_noise_without_candidates_frees_from_their_order() -> None:
    """It has no axis of candidates, so that nothing is asked of their order."""
    by_position = {
        "noise": lambda sound, batch: {"choice": normal(batch)},
        "__call__": lambda sound, candidates, q, noise, *value: (noise["choice"] > 0).to(torch.int64),
    }
    check_selection(entry(dataclass(frozen=True)(spoilt(Argmax, **by_position))))
