"""Plugins: packages that register components, found by the entry-point group `dqlab.plugins` or named by the user."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gin

from dqlab.config.gin_files import import_plugin
from dqlab.config.gin_state import configurables, remove_configurable, restore_configurable
from dqlab.config.registry import Clash, Registry, RegistryEntry, refuse_clash
from dqlab.errors import ConfigError, message_of, nearest

GROUP = "dqlab.plugins"


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Import every installed plugin, then the named modules.

    An installed plugin that fails is reported by name and skipped, and nothing of it stays: it must not break what
    does not use it. Of two that claim one name neither has it; against dqlab's own components a plugin's loses. Both
    are reported by name. What plugins print goes to stderr.

    Raises:
        ConfigError: a named module cannot be imported, or claims a name that is taken.
    """
    importlib.import_module("dqlab.config.components")
    with _tolerant():
        for entry in installed_plugins():
            _load(entry)
    for module in modules:
        import_plugin(module, "--plugin")


def installed_plugins() -> list[EntryPoint]:
    """The installed plugins, in the order of their names."""
    return sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))


def load_one(name: str) -> str:
    """Load all plugins and make sure that one of them is: by its entry point, its distribution, or as a module.

    Returns:
        The package that its components come from.

    Raises:
        ConfigError: there is none of that name, or it fails; the message says why.
    """
    load_plugins()
    points = [point for point in installed_plugins() if name in (point.name, point.dist and point.dist.name)]
    module = points[0].module if points else name
    if not points and not _importable(name):
        near = nearest(name, {point.name for point in installed_plugins()})
        here = f"The folder of that name here is not installed: pip install -e {name}"
        project = (Path(name) / "pyproject.toml").exists()
        raise ConfigError(f"There is no plugin or module '{name}'. {here if project else near}")
    with all_or_nothing(_package(module)):
        import_plugin(module, f"plugin '{name}'")
    return module if hasattr(sys.modules[module], "__path__") else module.rpartition(".")[0] or module


def components_of(package: str) -> Iterator[tuple[str, str, str]]:
    """Kind, name and trouble of every component that a package (or one of its modules) has tried to register.

    The trouble says why the component did not get its name; it is empty where it did.
    """
    for kind, registry in sorted(Registry.kinds.items()):
        for entry in registry:
            if _within(entry, package):
                yield kind, entry.name, ""
        for name, (clash, reason) in sorted(registry.clashes.items()):
            if any(_within(claim, package) for claim in clash.claims):
                yield kind, name, reason or f"the name is dqlab's own ({clash.claims[0].place}): rename the part"


def _within(entry: RegistryEntry[Any], package: str) -> bool:
    return entry.module == package or entry.module.startswith(f"{package}.")


def _importable(module: str) -> bool:
    """Whether there is such a module; a mere folder, which Python would import as an empty package, is none."""
    try:
        found = find_spec(module)
        return found is not None and found.origin is not None
    except (ImportError, ValueError):
        return False


def _load(entry: EntryPoint) -> None:
    try:
        with all_or_nothing(_package(entry.value)):
            entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may fail in any way, exits and skipped tests included
        reason = message_of(error) if isinstance(error, ConfigError) else repr(error)
        _warn(f"plugin '{entry.name}' ({entry.value}) is skipped: {reason}")
        if os.environ.get("DQLAB_DEBUG"):
            traceback.print_exc()


def _package(module: str) -> str:
    return module.partition(":")[0].split(".")[0].strip()


@contextmanager
def _tolerant() -> Iterator[None]:
    """Clashes of names are settled instead of refused; gin takes new configurables; stdout stays the command's."""
    Registry.on_clash = staticmethod(resolve_clash)
    try:
        with gin.unlock_config(), redirect_stdout(sys.stderr):
            yield
    finally:
        Registry.on_clash = staticmethod(refuse_clash)


def resolve_clash(clash: Clash) -> str:
    """What becomes of a name that an installed plugin claims as the second one; it is reported.

    Returns:
        Why nobody has the name; empty where dqlab has it, whose components keep theirs.

    Raises:
        ConfigError: both claims are of one package.
    """
    *earlier, latest = clash.claims
    packages = [claim.package for claim in earlier]
    if latest.package in packages:
        return refuse_clash(clash)
    if "dqlab" in packages:
        _warn(
            f"{_who(latest)} claims the {clash.kind} name '{clash.name}', which is dqlab's own ({earlier[0].place}): "
            "its part is left out."
        )
        return ""
    claimants = " and by ".join(_who(claim) for claim in clash.claims)
    reason = (
        f"The {clash.kind} name '{clash.name}' is claimed by {claimants}. Nobody has it until all but one "
        "of them are renamed or uninstalled."
    )
    _warn(reason)
    return reason


def _who(entry: RegistryEntry[Any]) -> str:
    """A claimant: entry point, distribution, and place in the code."""
    for point in installed_plugins():
        if _package(point.value) == entry.package:
            distribution = f"{point.dist.name}, " if point.dist else ""
            return f"plugin '{point.name}' ({distribution}{entry.place})"
    return f"'{entry.package}' ({entry.place})"


def _warn(text: str) -> None:
    print(f"dqlab: warning: {text}", file=sys.stderr)


@contextmanager
def all_or_nothing(package: str) -> Iterator[None]:
    """What is imported inside is registered entirely, or, where it fails, not at all.

    Args:
        package: the top-level package that is imported.
    """
    before = RegisteredState.now()
    try:
        yield
    except BaseException:
        before.restore(package)
        raise


@dataclass(frozen=True)
class RegisteredState:
    """All that is registered at one time."""

    kinds: Mapping[str, Registry[Any]]
    entries: Mapping[str, Mapping[str, RegistryEntry[Any]]]
    clashes: Mapping[str, Mapping[str, tuple[Clash, str]]]
    gin: Mapping[str, Any]
    modules: frozenset[str]

    @classmethod
    def now(cls) -> RegisteredState:
        kinds = dict(Registry.kinds)
        entries = {kind: dict(registry.entries) for kind, registry in kinds.items()}
        clashes = {kind: dict(registry.clashes) for kind, registry in kinds.items()}
        return cls(kinds, entries, clashes, configurables(), frozenset(sys.modules))

    def restore(self, package: str) -> None:
        """Register what was registered then, and nothing else, after a plugin of that package has failed."""
        later = RegisteredState.now()
        strangers = {package} | later._packages(self) - {"dqlab"}
        self._restore_gin(later)
        for kind in later.kinds.keys() - self.kinds.keys():
            if not _ours(later.kinds[kind].module):
                del Registry.kinds[kind]
        for kind, registry in self.kinds.items():
            ours = {name: entry for name, entry in registry.entries.items() if _ours(entry.module)}
            registry.entries = {**ours, **self.entries[kind]}
            registry.clashes = dict(self.clashes[kind])
        for module in set(sys.modules) - self.modules:
            if module.split(".")[0] in strangers:
                del sys.modules[module]

    def _packages(self, before: RegisteredState) -> set[str]:
        """Packages that have registered components since."""
        return {
            entry.package
            for kind, entries in self.entries.items()
            for name, entry in entries.items()
            if entry is not before.entries.get(kind, {}).get(name)
        }

    def _restore_gin(self, later: RegisteredState) -> None:
        for selector in later.gin.keys() - self.gin.keys():
            if not _ours(later.gin[selector].wrapped.__module__):
                remove_configurable(selector)
        for selector in self.gin.keys() - later.gin.keys():
            restore_configurable(selector, self.gin[selector])


def _ours(module: str) -> bool:
    return module.split(".")[0] == "dqlab"
