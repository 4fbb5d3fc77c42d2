"""The conformance suites of policies and selections catch what they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqlab.config.registry import RegistryEntry
from dqlab.noise import normal
from dqlab.policies.gaussian import DeterministicPolicy
from dqlab.policies.selection import Argmax
from dqlab.tools.conformance.policies import check_policy, check_selection


def spoilt(base: type, **methods: Callable[..., Any]) -> RegistryEntry[Any]:
    """A component with some methods that call the sound one's, given as their first argument, and do wrong."""
    wrong = {
        name: lambda self, *given, name=name, method=method: method(partial_of(base, name, self), *given)
        for name, method in methods.items()
    }
    return RegistryEntry("bad", dataclass(frozen=True)(type("Bad", (base,), wrong)), "", "", "")


def partial_of(base: type, name: str, self: Any) -> Callable[..., Any]:
    return lambda *given: getattr(base, name)(self, *given)


def own_dice(sound: Callable[..., Tensor], *given: Any) -> Tensor:
    action = sound(*given)
    return (action + 1e-3 * torch.randn(action.shape)).clamp(-1, 1)


class Spare(nn.Linear):
    """A network with a parameter that nothing uses."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.spare = nn.Parameter(torch.zeros(2))


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
        check_policy(spoilt(DeterministicPolicy, **methods))


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
        check_selection(spoilt(Argmax, __call__=call))


def test_noise_without_candidates_frees_from_their_order() -> None:
    """It has no axis of candidates, so that nothing is asked of their order."""
    by_position = {
        "noise": lambda sound, batch: {"choice": normal(batch)},
        "__call__": lambda sound, candidates, q, noise, *value: (noise["choice"] > 0).to(torch.int64),
    }
    check_selection(spoilt(Argmax, **by_position))
