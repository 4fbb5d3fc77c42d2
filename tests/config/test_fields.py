"""Bounds of numbers in a dataclass's annotations, postponed or not, and inherited."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

import pytest

from dqlab.config import fields
from dqlab.errors import ConfigError

BOUNDS: dict[str, tuple[str, Any, Any, str]] = {
    "count": ("PositiveInt", 1, 0, "at least 1"),
    "steps": ("NonNegativeInt", 0, -1, "at least 0"),
    "scale": ("PositiveFloat", 1.0, 0.0, "positive"),
    "weight": ("NonNegativeFloat", 0.0, -1e-9, "at least 0"),
    "share": ("UnitFloat", 0.5, 1.1, "between 0 and 1"),
}
CHECKED = {"__post_init__": fields.check_fields, "__module__": fields.__name__}
POSTPONED = make_dataclass(
    "Made", [(name, kind, value) for name, (kind, value, *_) in BOUNDS.items()], namespace=CHECKED
)
EVALUATED = make_dataclass(
    "Made", [(name, getattr(fields, kind), value) for name, (kind, value, *_) in BOUNDS.items()], namespace=CHECKED
)
PLAIN_TYPES = [("count", "int", 3), ("scale", "float", 2.0), ("weight", "float", 1)]
INHERITED = make_dataclass("Made", PLAIN_TYPES, bases=(POSTPONED,))


@pytest.mark.parametrize("kind", [POSTPONED, EVALUATED, INHERITED])
def test_bounds(kind: Any) -> None:
    assert (kind(weight=2).weight, kind(share=0).share, kind(share=1).share) == (2.0, 0.0, 1.0)
    wrong = [(name, value, wanted) for name, (*_, value, wanted) in BOUNDS.items()]
    for name, value, wanted in (*wrong, ("count", 1.5, "of type int")):
        with pytest.raises(ConfigError, match=f"Made.{name} must be {wanted}, not {value}"):
            kind(**{name: value})
    for value in ("nan", "inf"):
        with pytest.raises(ConfigError, match=f"weight must be finite, not {value}"):
            kind(weight=float(value))
