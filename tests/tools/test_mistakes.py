"""Mistakes that authors of parts make: each is caught by the suite, or before training begins, in words that help."""

# Annotations are not postponed here, as they need not be in a plugin.

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dqlab.algorithms import algorithms
from dqlab.algorithms.bc import BehaviourCloning
from dqlab.config.registry import Registry
from dqlab.errors import ConfigError
from dqlab.networks.denoiser import MLPDenoiser
from dqlab.policies import selections
from dqlab.policies.base import Dims
from dqlab.policies.selection import Argmax
from dqlab.testing import check
from dqlab.training import Probe

DIMS = Dims(5, 3)


@dataclass(frozen=True)
class Scaled(BehaviourCloning):
    """A float field of its own."""

    scale: float = 2.0

    def actor_loss(self, dims: Dims, nets: Any, batch: Any, noise: Any, hyper: Any) -> Any:
        loss, info = super().actor_loss(dims, nets, batch, noise, hyper)
        return hyper["scale"] * loss, info


def test_fields_are_read_without_postponed_annotations() -> None:
    assert Scaled(scale=3.0).hyper() == {"learning_rate": 3e-4, "scale": 3.0}
    with pytest.raises(ConfigError, match="Scaled.scale must be of type float, not 'high'"):
        Scaled(scale="high")  # type: ignore[arg-type]
    Probe(Scaled(), DIMS).check_wiring()


def with_loss(change: Any) -> Any:
    class Changed(BehaviourCloning):
        def actor_loss(self, *args: Any) -> Any:
            return change(*super().actor_loss(*args))

    return Changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda loss, info: (loss.expand(7), info),
            r"the loss of 'actor' must be a scalar tensor, .* \(7,\)",
        ),
        (lambda loss, info: (loss, {**info, "actor/x": 1.0}), "actor/x must be a scalar tensor, not 1.0"),
        (
            lambda loss, info: (loss, {**info, "actor/x": loss.expand(2)}),
            "actor/x must be a scalar tensor, not of",
        ),
        (lambda loss, info: (loss, {"actor/loss": loss.detach()}), "selection_loss is 'actor/bc_loss', but its losses"),
    ],
)
def test_losses_are_scalars_and_hold_what_selection_goes_by(change: Any, message: str) -> None:
    """Found before training begins."""
    with pytest.raises(ConfigError, match=message):
        Probe(with_loss(change)(), DIMS).check_wiring()


def filed(kind: str, part: Any) -> None:
    Registry.kinds[kind].add("wrong", part, summary="Wrong.", source="no paper")


class Undecorated(Argmax):
    n_candidates: int = 7


class Clamps(MLPDenoiser):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return super().forward(noisy_action.clamp_(-0.1, 0.1), t, state)


class Dice(MLPDenoiser):
    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.dropout(noisy_action), t, state)


def reads_the_loss(loss: Tensor, info: Any) -> Any:
    return loss * (1.0 if float(loss) > 0 else 2.0), info


CASES = {
    "fields of a class that is no dataclass": ("selection", Undecorated, "decorate the class with @dataclass"),
    "a write into an argument": ("denoiser", Clamps, "it writes into its arguments"),
    "random numbers": ("denoiser", Dice, "it draws random numbers of its own"),
    "a value read in a loss": ("algorithm", with_loss(reads_the_loss), "item"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_suite_says_what_is_wrong(case: str) -> None:
    kind, part, message = CASES[case]
    algorithms.names(), selections.names()
    filed(kind, part)
    try:
        with pytest.raises((AssertionError, RuntimeError), match=message):
            check(kind, "wrong")
    finally:
        Registry.kinds[kind].remove("wrong")


def test_an_error_is_placed_in_the_authors_own_code() -> None:
    from dqlab.errors import error_place

    def fails(loss: Tensor, info: Any) -> Any:
        return info["nothing"]

    with pytest.raises(KeyError) as found:
        Probe(with_loss(fails)(), DIMS).check_wiring()
    assert error_place(found.value).startswith(f"{__file__}:")
    with pytest.raises(ConfigError) as raised:
        partial(BehaviourCloning, policy="nobody")().build(DIMS)
    assert "registry.py" in error_place(raised.value)
