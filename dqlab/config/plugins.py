"""Plugins: packages that register components, found by the entry-point group `dqlab.plugins` or named by the user."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gin

from dqlab.config.gin_files import import_plugin
from dqlab.config.gin_state import configurables, remove_configurable
from dqlab.config.registry import Registry, fill_registries
from dqlab.errors import ConfigError, message_of, nearest
from dqlab.files import sha256_of


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Import every installed plugin, then the named modules.

    An installed plugin that fails is reported by name and skipped, and nothing of it stays: it must not break what
    does not use it. So is one that claims a name that dqlab or an earlier one has. What plugins print goes to stderr.
    A ConfigError where a named module cannot be imported, or claims a name that is taken.
    """
    fill_registries()
    with gin.unlock_config(), redirect_stdout(sys.stderr):
        for point in installed_plugins():
            try:
                with all_or_nothing(_package(point.value)):
                    point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin may fail in any way, exits and skipped tests included
                reason = message_of(error) if isinstance(error, ConfigError) else repr(error)
                _warn(f"plugin '{point.name}' ({point.value}) is skipped: {reason}")
                if os.environ.get("DQLAB_DEBUG"):
                    traceback.print_exc()
    for module in modules:
        import_plugin(module, "--plugin")


@cache
def _warn(said: str) -> None:
    """Once: in Python plugins are looked for at several calls."""
    print(f"dqlab: warning: {said}", file=sys.stderr)


def installed_plugins() -> list[EntryPoint]:
    """The installed plugins, in the order of their names."""
    return sorted(entry_points(group="dqlab.plugins"), key=lambda entry: (entry.name, entry.value))


def load_one(name: str) -> str:
    """Load all plugins and make sure of one, by entry point, distribution or module; its package, or a ConfigError."""
    load_plugins()
    points = [point for point in installed_plugins() if name in (point.name, point.dist and point.dist.name)]
    module = points[0].module if points else name
    if not points and not importable(name):
        hint = nearest(name, {point.name for point in installed_plugins()})
        if (Path(name) / "pyproject.toml").exists():
            hint = f"The folder of that name here is not installed: pip install -e {name}"
        raise ConfigError(f"There is no plugin or module '{name}'. {hint} A module is found on PYTHONPATH.")
    with all_or_nothing(_package(module)):
        import_plugin(module, f"plugin '{name}'")
    return module if hasattr(sys.modules[module], "__path__") else module.rpartition(".")[0] or module


def components_of(package: str) -> list[tuple[str, str]]:
    """Kind and name of every component that a package (or one of its modules) has registered."""
    known = [(kind, entry) for kind, registry in sorted(Registry.kinds.items()) for entry in registry]
    return [(kind, entry.name) for kind, entry in known if f"{entry.module}.".startswith(f"{package}.")]


def plugin_sources() -> dict[str, str]:
    """Modules, not dqlab's, that have registered components, and the beginning of the SHA-256 of each one's file."""
    modules = {entry.module for registry in Registry.kinds.values() for entry in registry if entry.package != "dqlab"}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)}
    return {name: sha256_of(Path(file))[:12] for name, file in files.items() if file}


def changed_sources(facts: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """The modules that a run.json names, whose files are others in `now`, `plugin_sources`: names do not show it."""
    return [name for name, known in facts.get("plugin_sources", {}).items() if now.get(name, known) != known]


@contextmanager
def naming_plugins(facts: Mapping[str, Any]) -> Iterator[None]:
    """Within this, a ConfigError also names the plugins that a run had, by its run.json, and that are not imported."""
    try:
        yield
    except ConfigError as error:
        if lacking := sorted({*facts.get("plugin_sources", {})} - {*sys.modules}):
            raise ConfigError(f"{error} The run had {', '.join(lacking)}, which nothing has imported here.") from error
        raise


def importable(module: str) -> bool:
    """Whether there is such a module; a mere folder, which Python would import as an empty package, is none."""
    try:
        found = find_spec(module)
        return found is not None and found.origin is not None
    except (ImportError, ValueError):
        return False


def _package(module: str) -> str:
    return module.partition(":")[0].split(".")[0].strip()


@contextmanager
def all_or_nothing(package: str) -> Iterator[None]:
    """What is imported inside, a top-level package, is registered entirely or not at all; dqlab's own modules stay."""
    names = {kind: set(registry.entries) for kind, registry in Registry.kinds.items()}
    selectors, modules = set(configurables()), set(sys.modules)
    try:
        yield
    except BaseException:
        failed = {package}
        for kind, registry in list(Registry.kinds.items()):
            for name, entry in list(registry.entries.items()):
                if name not in names.get(kind, ()) and entry.package != "dqlab":
                    registry.remove(name)
                    failed.add(entry.package)
            if kind not in names and registry.package != "dqlab":
                del Registry.kinds[kind]
        for selector, item in configurables().items():
            if selector not in selectors and _package(item.__module__) != "dqlab":
                remove_configurable(selector)
        for module in set(sys.modules) - modules:  # a later plugin that imports one of them registers its components
            if _package(module) in failed:
                del sys.modules[module]
        raise
