"""What gin keeps of every configurable, which it never lets go: look-up, taking a name out, putting it back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from gin import config as gin_config

STATE = ("_CONFIG", "_OPERATIVE_CONFIG", "_SINGLETONS", "_IMPORTS", "_CONFIG_IS_LOCKED")
"""gin's variables that make up the current configuration."""


class OtherConfiguration(AbstractContextManager[None]):
    """A configuration of its own, empty at first; the current one stands aside while the context lasts.

    The context may be entered again, and finds its configuration as it was left.
    """

    def __init__(self) -> None:
        self._aside: dict[str, Any] = {name: type(getattr(gin_config, name))() for name in STATE}

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exchange()

    def _exchange(self) -> None:
        for name in STATE:
            current = getattr(gin_config, name)
            setattr(gin_config, name, self._aside[name])
            self._aside[name] = current


def configurables() -> dict[str, Any]:
    """gin's record of every configurable, by complete name `module.name`."""
    return dict(gin_config._REGISTRY.items())


def wrapped(selector: str) -> Any:
    """The function or class, as written, behind a complete name; None where there is none."""
    found = gin_config._REGISTRY.get(selector)
    return found and found.wrapped


def short(selector: str) -> str:
    """The shortest name that gin files may use for a complete one."""
    return str(gin_config._REGISTRY.minimal_selector(selector))


def forget(selector: str) -> None:
    """Take a configurable out, so that its name is free again; what is not there is left alone."""
    if selector in gin_config._REGISTRY:
        gin_config._INVERSE_REGISTRY.pop(gin_config._REGISTRY.pop(selector).wrapped, None)


def put_back(selector: str, record: Any) -> None:
    """The inverse of `forget`, with a record of `configurables`."""
    gin_config._REGISTRY[selector] = record
    gin_config._INVERSE_REGISTRY[record.wrapped] = record
