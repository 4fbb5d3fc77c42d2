"""Every kind's suite, and the check of one registered component, or of all that a plugin registers."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from dqlab.config.plugins import components_of, load_one
from dqlab.config.registry import RegistryEntry, registry_of
from dqlab.errors import DqlabError, error_place, message_of
from dqlab.tools.conformance import diffusion, environments, networks, training
from dqlab.tools.conformance.made import UncheckedError

CHECKS: dict[str, Callable[[RegistryEntry[Any]], None]] = {
    name.removeprefix("check_"): function
    for module in (diffusion, environments, networks, training)
    for name, function in vars(module).items()
    if name.startswith("check_") and "entry" in function.__annotations__
}
"""The suite of every kind, `check_KIND(entry)`; it raises an UncheckedError where it could not look at a component."""


class ComponentReport(NamedTuple):
    """What became of a component: its trouble, empty where it conforms; and why it was not looked at, if it was not."""

    kind: str
    name: str
    trouble: str
    skipped: str = ""


def check(kind: str, name: str) -> str:
    """Put one registered component through its kind's conformance suite, and check that it is documented.

    Returns:
        Why its behaviour was not looked at, such as an extra that is not installed; empty where it was.

    Raises:
        AssertionError: it does not do what its kind must; the message says what is wrong.
    """
    registry = registry_of(kind)
    assert name in registry, f"no {kind} is called '{name}'"
    entry = registry.entry(name)
    own = vars(entry.item) if inspect.isclass(entry.item) else {}
    undecorated = is_dataclass(entry.item) and own.get("__annotations__") and "__dataclass_fields__" not in own
    assert not undecorated, "its own fields are not read: decorate the class with @dataclass(frozen=True)"
    skipped = "" if kind in CHECKS else f"there is no suite for a {kind}"
    try:
        CHECKS.get(kind, str)(entry)
    except UncheckedError as reason:
        skipped = str(reason)
    assert entry.summary, "no summary: give it a docstring"
    assert entry.source, "no source: register it with source='paper, equation'"
    return skipped


def check_plugin(name: str) -> None:
    """Put every component that a plugin registers through `check`.

    Args:
        name: the plugin's entry point in the group `dqlab.plugins`, its distribution, or a module.

    Raises:
        AssertionError: components that fail, one a line with what is wrong; or the plugin registers none.
        ConfigError: there is no such plugin, or it cannot be imported.
    """
    failures = [f"{each.kind} '{each.name}': {each.trouble}" for each in examine(name) if each.trouble]
    if failures:
        raise AssertionError(f"{len(failures)} of the components of '{name}' fail:\n" + "\n".join(failures))


def examine(plugin: str) -> Iterator[ComponentReport]:
    """What `check` says of each of a plugin's components; an AssertionError, or a ConfigError, where there are none."""
    found = components_of(load_one(plugin))
    if not found:
        raise AssertionError(f"'{plugin}' registers nothing: does its module import those with the components?")
    for kind, name in found:
        try:
            yield ComponentReport(kind, name, "", check(kind, name))
        except Exception as error:  # a component may fail in any way
            if os.environ.get("DQLAB_DEBUG"):
                traceback.print_exc()
            text = (message_of(error).splitlines() or [""])[0]
            expected = isinstance(error, (AssertionError, DqlabError)) and text
            trouble = text if expected else f"{type(error).__name__}: {text} ({error_place(error)})"
            yield ComponentReport(kind, name, trouble)
