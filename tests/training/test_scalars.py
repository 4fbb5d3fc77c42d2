"""What may differ within a pack: what losses read from `hyper`. A float that is read from `self` would be shared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from torch import Tensor

from dqlab.algorithms import algorithms
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.errors import ConfigError
from dqlab.policies.base import Dims
from dqlab.runs.build import check_varied
from dqlab.testing import check
from dqlab.training import Pack

DIMS = Dims(5, 3)


@dataclass(frozen=True)
class Shrunk(BehaviourCloning):
    """Acts by a share of the policy's actions."""

    share: float = 0.5

    def act(self, dims: Dims, nets: Any, state: Tensor, noise: Any) -> Tensor:
        return self.share * super().act(dims, nets, state, noise)


@dataclass(frozen=True)
class Hidden(Shrunk):
    """Reads it in a way that is not noticed."""

    def act(self, dims: Dims, nets: Any, state: Tensor, noise: Any) -> Tensor:
        return vars(self)["share"] * BehaviourCloning.act(self, dims, nets, state, noise)


@dataclass(frozen=True)
class Structural(Shrunk):
    """Says so."""

    structural: ClassVar[tuple[str, ...]] = ("share",)


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[str]:
    algorithms.names()
    algorithms.add("made", request.param, summary="Made.", source="no paper")
    yield "made"
    algorithms.remove("made")


@pytest.mark.parametrize("registered", [Shrunk, Hidden], indirect=True)
def test_the_suite_finds_a_shared_float_that_claims_to_differ(registered: str) -> None:
    with pytest.raises(AssertionError, match="act differs when packed"):
        check("algorithm", registered)


@pytest.mark.parametrize("registered", [Structural], indirect=True)
def test_a_structural_float_passes_and_is_the_same_in_all_of_a_pack(registered: str) -> None:
    check("algorithm", registered)
    assert "share" not in Structural().hyper()
    with pytest.raises(ConfigError, match="scalar hyper-parameters only"):
        Pack([Structural(), Structural(share=0.6)], DIMS, [0, 1])


def test_a_pack_refuses_to_vary_what_is_read_directly() -> None:
    """Before training, whether or not anybody ran the suite."""
    with pytest.raises(ConfigError, match="Shrunk reads self.share, .* or name it in Shrunk.structural"):
        check_varied([Shrunk(), Shrunk(share=0.6)], DIMS)
    check_varied([Shrunk(), Shrunk(learning_rate=0.6)], DIMS)
