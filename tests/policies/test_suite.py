"""The conformance suites of networks, policies, selections and samplers catch what breaks its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqlab.config.registry import RegistryEntry
from dqlab.diffusion.sampling import DDPM
from dqlab.networks.ensembles import CriticEnsemble, QNetwork, TwinCritic
from dqlab.noise import NoiseSpec, normal, uniform
from dqlab.policies.gaussian import DeterministicPolicy
from dqlab.policies.selection import Argmax
from dqlab.tools.conformance.diffusion import check_sampler
from dqlab.tools.conformance.networks import (
    check_activation,
    check_critic,
    check_denoiser,
    check_policy,
    check_selection,
    check_value_loss,
)

Check = Callable[[RegistryEntry[Any]], None]


def spoilt(base: type, **methods: Callable[..., Any]) -> type:
    """A class whose methods call the sound one's, given as their first argument, and do wrong."""

    def wrong(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *given: method(lambda *values: getattr(base, name)(self, *values), *given)

    made = type("Spoilt", (base,), {name: wrong(name, method) for name, method in methods.items()})
    return made if issubclass(base, nn.Module) else dataclass(frozen=True)(made)


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


class Scaled(QNetwork):
    """A critic whose members differ in more than parameters."""

    def __init__(self, scale: float) -> None:
        super().__init__(5, 3, hidden_dim=4)
        self.scale = scale

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.scale * super().forward(state, action)


def own_dice(sound: Callable[..., Tensor], *given: Any) -> Tensor:
    action = sound(*given)
    return (action + 1e-3 * torch.randn(action.shape)).clamp(-1, 1)


def of_mean(sound: Callable[..., Tensor], network: Any, dims: Any, state: Tensor, noise: Any) -> Tensor:
    return sound(network, dims, state - state.mean(dim=0), noise)


def best_of_all_states(sound: Callable[..., Tensor], candidates: Tensor, q: Tensor, *given: Any) -> Tensor:
    return q.amin(dim=0).sum(dim=1).argmax().expand(q.shape[-1])


def choosing(call: Callable[..., Tensor]) -> type:
    return spoilt(Argmax, __call__=call)


def loud(sound: Callable[..., Tensor], data: Any, process: Any, noise: Any) -> Tensor:
    """Twice the noise that there should be."""
    return sound(data, process, replace(noise, steps=2 * noise.steps))


CASES: list[tuple[Check, Any, str]] = [
    (
        check_denoiser,
        spoilt(Base, forward=lambda sound, *given: sound(*given) - sound(*given).mean(0)),
        "on other rows",
    ),
    (check_denoiser, spoilt(Base, forward=lambda sound, *x: sound(*x) * torch.arange(1, 4)), "leaves the device"),
    (check_denoiser, DeadParameter, "no gradient reaches unused"),
    (check_denoiser, spoilt(Base, forward=single_only), "in float32 it gives torch.float64"),
    (check_denoiser, ForgetsState, "read back from its state dict"),
    (check_denoiser, DeafTraining, "ignores its noise"),
    (check_critic, spoilt(TwinCritic, backup=lambda sound, *given: sound(*given).squeeze(-1)), r"instead of \(7, Z\)"),
    (
        check_critic,
        spoilt(TwinCritic, loss=lambda sound, outputs, target: (outputs - target).square().mean(dim=(1, 2))),
        "must be a scalar",
    ),
    (check_critic, spoilt(TwinCritic, ranking_value=lambda sound, q: sound(q) * torch.nan), "or give NaN"),
    (check_critic, lambda *sizes: CriticEnsemble([Scaled(1.0), Scaled(2.0)], alike=True), "they are not alike"),
    (check_activation, nn.Identity, "it is linear"),
    (check_activation, lambda: nn.Softmax(dim=0), "depends on others"),
    (check_value_loss, lambda u: (u - 1).square(), "not least where V is Q"),
    (check_value_loss, lambda u: u.abs().sqrt(), "not convex"),
    (check_value_loss, lambda u: u.exp() - u, "not finite"),
    (
        check_policy,
        spoilt(DeterministicPolicy, sample=lambda sound, network, dims, state, noise: network(state)),
        "out of range",
    ),
    (check_policy, spoilt(DeterministicPolicy, sample=of_mean), "depends on other rows"),
    (check_policy, spoilt(DeterministicPolicy, sample=own_dice), "random numbers of its own"),
    (
        check_policy,
        spoilt(DeterministicPolicy, sample=lambda sound, *given: sound(*given).detach()),
        "does not depend on the parameters",
    ),
    (check_policy, spoilt(DeterministicPolicy, losses=lambda sound, *x: sound(*x).mean()), "losses: shape"),
    (check_selection, choosing(lambda sound, *given: sound(*given) + len(given[0])), "out of range"),
    (check_selection, choosing(lambda sound, *given: torch.zeros_like(sound(*given))), "order of the candidates"),
    (check_selection, choosing(best_of_all_states), "another state's candidates"),
    (check_selection, choosing(lambda sound, *given: sound(*given).unsqueeze(-1)), "index has shape"),
    (check_sampler, spoilt(DDPM, chain=loud), "misses a Gaussian target"),
]


@pytest.mark.parametrize(
    ("check", "item", "message"), CASES, ids=[f"{check.__name__}-{message}" for check, _, message in CASES]
)
def test_the_suite_says_what_is_broken(check: Check, item: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(RegistryEntry("made", item))


BY_POSITION = spoilt(
    Argmax,
    noise=lambda sound, batch: {"choice": normal(batch)},
    __call__=lambda sound, candidates, q, noise, *value: (noise["choice"] > 0).to(torch.int64),
)


@pytest.mark.parametrize(("check", "item"), [(check_denoiser, Base), (check_selection, BY_POSITION)])
def test_what_is_sound_conforms(check: Check, item: Any) -> None:
    """Noise without an axis of candidates, too: then nothing is asked of their order."""
    check(RegistryEntry("made", item))
