"""The conformance suites of policies and selections catch what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dqlab.config.registry import Registry
from dqlab.noise import NoiseSpec, normal
from dqlab.policies import policies, selections
from dqlab.policies.base import Dims
from dqlab.policies.gaussian import DeterministicPolicy
from dqlab.policies.selection import Argmax
from dqlab.testing import check

Call = Callable[..., Tensor]


@pytest.fixture
def file_as_bad() -> Iterator[Callable[[str, object], None]]:
    """Files a part under the name `bad`, until the test is over."""
    filed: list[Registry] = []

    def file(kind: str, part: object) -> None:
        registry = Registry.kinds[kind]
        registry.add("bad", part, summary="Does something wrong.", source="no paper")
        filed.append(registry)

    policies.names(), selections.names()
    yield file
    for registry in filed:
        registry.remove("bad")


class Spare(nn.Linear):
    """A network with a parameter that nothing uses."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.spare = nn.Parameter(torch.zeros(2))


@dataclass(frozen=True)
class TooFar(DeterministicPolicy):
    def sample(self, network: Call, dims: Dims, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return network(state)


@dataclass(frozen=True)
class MixesRows(DeterministicPolicy):
    def sample(self, network: Call, dims: Dims, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return super().sample(network, dims, state - state.mean(dim=0), noise)


@dataclass(frozen=True)
class OwnDice(DeterministicPolicy):
    def sample(self, network: Call, dims: Dims, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return (super().sample(network, dims, state, noise) + 1e-3 * torch.randn(len(state), dims.action)).clamp(-1, 1)


@dataclass(frozen=True)
class Untrained(DeterministicPolicy):
    def build(self, dims: Dims) -> nn.Module:
        return Spare(dims.state, dims.action)


@dataclass(frozen=True)
class Detached(DeterministicPolicy):
    def sample(self, network: Call, dims: Dims, state: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return super().sample(network, dims, state, noise).detach()


@dataclass(frozen=True)
class OnTheHost(DeterministicPolicy):
    def losses(self, network: Call, dims: Dims, state: Tensor, action: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return super().losses(network, dims, state, action, noise) * torch.arange(1, len(state) + 1)


@dataclass(frozen=True)
class OneLoss(DeterministicPolicy):
    def losses(self, network: Call, dims: Dims, state: Tensor, action: Tensor, noise: dict[str, Tensor]) -> Tensor:
        return super().losses(network, dims, state, action, noise).mean()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (TooFar, "out of range"),
        (MixesRows, "depends on other rows"),
        (OwnDice, "random numbers of its own"),
        (Untrained, "no gradient reaches spare"),
        (Detached, "does not depend on the parameters"),
        (OnTheHost, "leaves the device"),
        (OneLoss, "losses have shape"),
    ],
)
def test_of_policies(policy: object, message: str, file_as_bad: Callable[[str, object], None]) -> None:
    file_as_bad("policy", policy)
    with pytest.raises(AssertionError, match=message):
        check("policy", "bad")


@dataclass(frozen=True)
class Beyond(Argmax):
    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return super().__call__(candidates, q, noise) + self.n_candidates


@dataclass(frozen=True)
class First(Argmax):
    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return torch.zeros_like(super().__call__(candidates, q, noise))


@dataclass(frozen=True)
class BestOfAllStates(Argmax):
    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return q.amin(dim=0).sum(dim=1).argmax().expand(q.shape[-1])


@dataclass(frozen=True)
class ReadsBack(Argmax):
    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return torch.full((q.shape[-1],), int(q.sum() > 0), device=q.device)


@dataclass(frozen=True)
class WrongShape(Argmax):
    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return super().__call__(candidates, q, noise).unsqueeze(-1)


@dataclass(frozen=True)
class NoiseByPosition(Argmax):
    """Allowed: its noise has no axis of candidates, so that nothing is asked of their order."""

    def noise(self, batch: int) -> dict[str, NoiseSpec]:
        return {"choice": normal(batch)}

    def __call__(self, candidates: Tensor, q: Tensor, noise: dict[str, Tensor], value: Tensor | None = None) -> Tensor:
        return (noise["choice"] > 0).to(torch.int64)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Beyond, "out of range"),
        (First, "order of the candidates"),
        (BestOfAllStates, "another state's candidates"),
        (ReadsBack, "reads a value back"),
        (WrongShape, "index has shape"),
    ],
)
def test_of_selections(selection: object, message: str, file_as_bad: Callable[[str, object], None]) -> None:
    file_as_bad("selection", selection)
    with pytest.raises(AssertionError, match=message):
        check("selection", "bad")


def test_noise_without_candidates_frees_from_their_order(file_as_bad: Callable[[str, object], None]) -> None:
    file_as_bad("selection", NoiseByPosition)
    check("selection", "bad")
