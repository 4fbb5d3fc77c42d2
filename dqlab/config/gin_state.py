"""What gin keeps: the current configuration, what has been read of it, and every configurable.

gin has no public way to list what is bound or read, to look a configurable up, or to let go of one. So this file alone
uses gin's own variables.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import gin
from gin import config as gin_config

from dqlab.config import fields
from dqlab.errors import nearest


def bound_parameters() -> dict[str, Any]:
    """What the current configuration binds, by complete name `module.Configurable.parameter`; macros by their own."""
    return _by_name(gin_config._CONFIG)


def bound_value(name: str) -> Any:
    """What a parameter gets from the current configuration, by complete name: references and macros are evaluated."""
    return copy.deepcopy(bound_parameters().get(name))


def bind_parameter(name: str, value: Any) -> None:
    """Set one more parameter of the current configuration, by complete name, over what binds it so far."""
    with gin.unlock_config():
        gin.bind_parameter(name, value)


def operative_parameters() -> dict[str, Any]:
    """What has been read since `load_gin`, by complete name, defaults included: the operative configuration."""
    read, reference = _by_name(gin_config._OPERATIVE_CONFIG), gin_config.ConfigurableReference
    return {name: value for name, value in read.items() if plain_value(value) is value or isinstance(value, reference)}


def _by_name(config: Any) -> dict[str, Any]:
    named = {}
    for (scope, selector), parameters in config.items():
        if selector == "gin.macro":
            named[scope] = parameters["value"]
        else:
            prefix = f"{scope}/{selector}" if scope else selector
            named |= {f"{prefix}.{name}": value for name, value in parameters.items()}
    return named


def abbreviate_names(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """Bindings with names as short as gin understands them."""
    return {_abbreviate(name): value for name, value in bindings.items()}


def _abbreviate(name: str) -> str:
    scope, selector, parameter = _split(name)
    return f"{scope}{shortest_name(selector)}.{parameter}" if selector else name


def _split(name: str) -> tuple[str, str, str]:
    """`scope/` or nothing, what is configured, and its parameter; of a macro, its name alone as the parameter."""
    scope, slash, rest = name.rpartition("/")
    selector, _, parameter = rest.rpartition(".")
    return scope + slash, selector, parameter


def parameters_read() -> set[str]:
    """Complete names of all that has been read since `load_gin`."""
    return set(_by_name(gin_config._OPERATIVE_CONFIG))


def without_effect(name: str, known: Collection[str], elsewhere: str | tuple[str, ...]) -> str:
    """A sentence on a parameter that is not among those `known` to be read, nor begins as those read `elsewhere`."""
    if complete_name(name) in known or complete_name(name).startswith(elsewhere):
        return ""
    brief, parameter = [_abbreviate(other) for other in known if "." in other], name.rpartition(".")[2]
    alike = get_close_matches(parameter, {other.rpartition(".")[2] for other in brief}, n=1, cutoff=0.75)
    same = sorted(other for other in brief if [other.rpartition(".")[2]] == alike)
    hint = f"Did you mean {' or '.join(same[:3])}?" if same else nearest(name, brief)
    return f"{name} has no effect: nothing here reads it. {hint}"


def complete_name(name: str) -> str:
    """A binding's name with the complete name of what it binds, however short it was written."""
    scope, selector, parameter = _split(name)
    found = matching_selectors(selector)
    return f"{scope}{found[0]}.{parameter}" if len(found) == 1 else name


def matching_selectors(selector: str) -> list[str]:
    """Complete names of the configurables that a gin file may mean; that name alone where it is complete."""
    return list(gin_config._REGISTRY.matching_selectors(selector))


def plain_value(value: Any) -> Any:
    """A value that gin files can say; anything else as text."""
    return value if isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))) else str(value)


def configurables() -> dict[str, Any]:
    """Every configurable's function or class, as written, by complete name `module.name`."""
    return {selector: record.wrapped for selector, record in gin_config._REGISTRY.items()}


def shortest_name(selector: str) -> str:
    """The shortest name that gin files may use for a complete one."""
    return str(gin_config._REGISTRY.minimal_selector(selector))


def remove_configurable(selector: str) -> None:
    """Take a configurable out, so that its name is free again; what is not there is left alone."""
    if selector in gin_config._REGISTRY:
        gin_config._INVERSE_REGISTRY.pop(gin_config._REGISTRY.pop(selector).wrapped, None)


GIN = ("_CONFIG", "_OPERATIVE_CONFIG", "_SINGLETONS", "_IMPORTS", "_CONFIG_IS_LOCKED")
STATE: Mapping[str, Any] = {**dict.fromkeys(GIN, gin_config), "PLACES": fields}
"""The variables that make up the current configuration, and their modules."""


class OtherConfiguration:
    """Within this, a configuration of its own, empty at first, and as it was left when it is entered again."""

    def __init__(self) -> None:
        self._aside: dict[str, Any] = {name: type(getattr(module, name))() for name, module in STATE.items()}

    def _exchange(self, *_: object) -> None:
        for name, module in STATE.items():
            current = getattr(module, name)
            setattr(module, name, self._aside[name])
            self._aside[name] = current

    __enter__ = __exit__ = _exchange
