"""Checks of a configured dataclass's values, so that `DiffusionQL.eta = 'high'` is one clear message."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from dqlab.errors import ConfigError

PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def field_type(field: Field[Any]) -> str:
    """The name of a field's type, which is a string where annotations are postponed and a class where they are not."""
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


def check_fields(instance: Any) -> None:
    """Check every plainly annotated field of a dataclass; integers given for floats become floats.

    Raises:
        ConfigError: a value has the wrong type.
    """
    for field in fields(instance):
        kind = field_type(field)
        value = getattr(instance, field.name)
        if kind not in PLAIN_TYPES:
            continue
        wrong_bool = isinstance(value, bool) and kind != "bool"
        if wrong_bool or not isinstance(value, PLAIN_TYPES[kind]):
            raise ConfigError(f"{type(instance).__name__}.{field.name} must be of type {kind}, not {value!r}.")
        if kind == "float":
            number: Any = value
            object.__setattr__(instance, field.name, float(number))


def check_counts(component: str, least: int = 1, **values: Any) -> None:
    """Check sizes and counts of a component that is no dataclass.

    Args:
        component: its name in gin files.
        least: of each of them.
        values: parameter -> value.

    Raises:
        ConfigError: one is no whole number, or smaller.
    """
    for name, value in values.items():
        wanted = "of type int" if type(value) is not int else f"at least {least}"
        if type(value) is not int or value < least:
            raise ConfigError(f"{component}.{name} must be {wanted}, not {value!r}.")


def check_field(condition: bool, instance: Any, name: str, wanted: str) -> None:
    """Raise a ConfigError that says what a field must be, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{type(instance).__name__}.{name} must be {wanted}, not {getattr(instance, name)!r}.")
