"""Checks of a configured dataclass's values, so that `DiffusionQL.eta = 'high'` is one clear message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from inspect import get_annotations
from math import isfinite
from typing import Annotated, Any

from dqlab.errors import ConfigError

PLACES: dict[str, tuple[Any, str]] = {}
"""What the current configuration binds, by complete name, and how a message about it begins: `x.gin:3: `, `--set `."""


def bound_at(parameter: str, value: Any) -> str:
    """How a message begins about a parameter, `Name.parameter` or shorter, that was bound to a value, or names it."""
    for name, (bound, place) in PLACES.items():
        same = bound is value or (isinstance(value, (int, float, str)) and bound == value)
        named = isinstance(value, str) and isinstance(bound, (tuple, dict)) and value in bound
        if f".{name}".endswith(f".{parameter}") and (same or named):
            return place
    return ""


PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True)
class Bound:
    """What a number must be: its plain type, the condition, and how that is said."""

    plain: str
    holds: Callable[[Any], bool]
    wanted: str


PositiveInt = Annotated[int, Bound("int", lambda value: value >= 1, "at least 1")]
NonNegativeInt = Annotated[int, Bound("int", lambda value: value >= 0, "at least 0")]
PositiveFloat = Annotated[float, Bound("float", lambda value: value > 0, "positive")]
NonNegativeFloat = Annotated[float, Bound("float", lambda value: value >= 0, "at least 0")]
UnitFloat = Annotated[float, Bound("float", lambda value: 0 <= value <= 1, "between 0 and 1")]


def bound_of(annotation: Any) -> Bound | None:
    """The bounds in an annotation: one of those above, or its name where annotations are postponed."""
    kind = globals().get(annotation) if isinstance(annotation, str) else annotation
    return next((each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Bound)), None)


def plain_type(field: Field[Any]) -> str:
    """The name of a field's type, without its bounds: `float` of `NonNegativeFloat`."""
    bound = bound_of(field.type)
    return bound.plain if bound else getattr(field.type, "__name__", str(field.type))


def check_fields(instance: Any) -> None:
    """Check every plainly annotated field of a dataclass; integers given for floats become floats.

    Bounds are inherited: a subclass that gives a `NonNegativeFloat` another default may call it a `float`. A
    ConfigError where a value has the wrong type, is not finite, or is outside of its bounds.
    """
    for field in fields(instance):
        plain, value = plain_type(field), getattr(instance, field.name)
        if plain not in PLAIN_TYPES:
            continue
        fits = isinstance(value, PLAIN_TYPES[plain]) and (plain == "bool" or not isinstance(value, bool))
        check_field(fits, instance, field.name, f"of type {plain}")
        if plain == "float":
            check_field(isfinite(value), instance, field.name, "finite")
            object.__setattr__(instance, field.name, float(value))
    declared = [each for base in reversed(type(instance).__mro__) for each in get_annotations(base).items()]
    bounds = {name: bound for name, annotation in declared if (bound := bound_of(annotation))}
    for name, bound in bounds.items():
        check_field(bound.holds(getattr(instance, name)), instance, name, bound.wanted)


def check_counts(component: str, least: int = 1, **values: Any) -> None:
    """Raise a ConfigError unless parameters of a component that is no dataclass are whole numbers from `least` on."""
    for name, value in values.items():
        wanted = f"at least {least}" if type(value) is int else "of type int"
        if type(value) is not int or value < least:
            place = bound_at(f"{component}.{name}", value)
            raise ConfigError(f"{place}{component}.{name} must be {wanted}, not {value!r}.")


def check_field(condition: bool, instance: Any, name: str, wanted: str) -> None:
    """Raise a ConfigError that says what a field must be, unless the condition holds."""
    if not condition:
        whole, value = f"{type(instance).__name__}.{name}", getattr(instance, name)
        raise ConfigError(f"{bound_at(whole, value)}{whole} must be {wanted}, not {value!r}.")
