"""Calls in a configuration, `@name()`, and macros, `%name`: each has what it needs, and none leads back to itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config as gin_config

from dqlab.errors import ConfigError

Config = Mapping[tuple[str, str], Mapping[str, Any]]
"""gin's: (scope, complete name) -> parameter -> value."""
Key = tuple[str, str]


def check_calls(config: Config) -> None:
    """See that gin can make every call that a configuration binds, before it is in the middle of building something.

    Raises:
        ConfigError: a call lacks an argument, or is made of itself.
    """
    done: set[Key] = set()
    try:
        for key in config:
            _follow(config, key, (), done)
    except RecursionError as error:
        raise ConfigError("References lead from one to the next too often to be followed.") from error


def _follow(config: Config, key: Key, above: tuple[Key, ...], done: set[Key]) -> None:
    if key in above:
        raise ConfigError(f"{_called(key)} is made of itself: its bindings lead back to it.")
    if key not in done:
        for name, reference, child in _calls(config, key):
            if lacking := [other for other in _required(reference) if not _is_bound(config, child[1], other)]:
                add = f"add {reference.scoped_selector}.{lacking[0]} = ..., or leave off the ()"
                raise ConfigError(f"{_called(key)}.{name} = {reference}: it needs '{lacking[0]}': {add}.")
            _follow(config, child, (*above, key), done)
        done.add(key)


def _calls(config: Config, key: Key) -> Iterator[tuple[str, Any, Key]]:
    """The calls that arguments of something consist of: the parameter, gin's reference, and what is called."""
    scope, selector = key
    scopes = ["", *("/".join(scope.split("/")[: end + 1]) for end in range(scope.count("/") + 1))]
    bound: dict[str, Any] = {}
    for outer in scopes:  # inner scopes override
        bound |= config.get((outer, selector), {})
    for name, value in bound.items():
        for reference in gin_config.iterate_references({key: {name: value}}):
            if reference.evaluate:
                yield name, reference, ("/".join(reference.scopes) or scope, reference.configurable.selector)


def _required(reference: Any) -> list[str]:
    parameters = inspect.signature(reference.configurable.wrapped).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [item.name for item in parameters if item.default is item.empty and item.kind in named]


def _is_bound(config: Config, selector: str, name: str) -> bool:
    """Whether it is bound in any scope: which one a call is made in is known only then."""
    return any(other == selector and name in parameters for (_, other), parameters in config.items())


def _called(key: Key) -> str:
    scope, selector = key
    name = selector.rpartition(".")[2]
    return f"%{scope}" if selector == "gin.macro" else f"{scope}/{name}".lstrip("/")
