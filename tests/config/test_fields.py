"""Bounds of numbers in a dataclass's annotations, postponed (as here) or not."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest

from dqlab.config.fields import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
    check_fields,
)
from dqlab.errors import ConfigError


@dataclass
class Postponed:
    count: PositiveInt = 1
    steps: NonNegativeInt = 0
    scale: PositiveFloat = 1.0
    weight: NonNegativeFloat = 0.0
    share: UnitFloat = 0.5

    def __post_init__(self) -> None:
        check_fields(self)


TYPES = {
    "count": PositiveInt,
    "steps": NonNegativeInt,
    "scale": PositiveFloat,
    "weight": NonNegativeFloat,
    "share": UnitFloat,
}
Evaluated: Any = make_dataclass(
    "Evaluated",
    [(name, kind, getattr(Postponed(), name)) for name, kind in TYPES.items()],
    namespace={"__post_init__": check_fields},
)


@dataclass
class Inherited(Postponed):
    """Other defaults under plain types."""

    count: int = 3
    scale: float = 2.0
    weight: float = 1


@pytest.mark.parametrize("kind", [Postponed, Evaluated, Inherited])
def test_bounds(kind: Any) -> None:
    assert kind(weight=2).weight == 2.0
    assert kind(share=0).share == 0.0
    assert kind(share=1).share == 1.0
    wrong = {"count": 0, "steps": -1, "scale": 0.0, "weight": -1e-9, "share": 1.1}
    words = {"count": "at least 1", "steps": "at least 0", "scale": "positive", "share": "between 0 and 1"}
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=rf"{kind.__name__}.{name} must be {words.get(name, 'at least 0')}, not"):
            kind(**{name: value})
    for value in ("nan", "inf"):
        with pytest.raises(ConfigError, match=f"weight must be finite, not {value}"):
            kind(weight=float(value))
    with pytest.raises(ConfigError, match="count must be of type int, not 1.5"):
        kind(count=1.5)
