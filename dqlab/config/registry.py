"""One registry class for every exchangeable component: a decorator names it, and makes it a gin configurable."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, ClassVar, Generic, TypeVar, cast

import gin

from dqlab.config.fields import bound_at
from dqlab.config.gin_state import configurables, remove_configurable
from dqlab.errors import PACKAGE, ConfigError, nearest, nearest_of_few

T = TypeVar("T")


@dataclass(frozen=True)
class RegistryEntry(Generic[T]):
    """A registered component, and what `dqlab list` says of it."""

    name: str  # what gin values say
    item: T  # the component, a gin configurable
    source: str = ""  # paper and equation
    place: str = ""  # `module:line` of the code that registered it
    docstring: str = ""  # its own; its first line is the summary
    gin_name: str = ""  # the Python name under which gin files set its parameters; empty for a plain value
    example: Mapping[str, Any] = field(default_factory=dict)  # values of parameters without which it means nothing
    cites: tuple[str, ...] = ()  # keys of the works that the source names, as references.bib has them
    family: str = ""  # what lists say in place of it and others of the same family; empty for none

    @property
    def summary(self) -> str:
        return self.docstring.split("\n", 1)[0]

    @property
    def module(self) -> str:
        return self.place.partition(":")[0]

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    def make(self) -> T:
        """The component, with the parameters of its example given, if it has one."""
        return cast(T, partial(cast(Callable[..., Any], self.item), **self.example)) if self.example else self.item

    def signature(self) -> list[inspect.Parameter]:
        """The named parameters of the component; none where it is a plain value, or does not say."""
        try:
            found = inspect.signature(cast(Callable[..., Any], self.item)).parameters.values()
        except (TypeError, ValueError):
            return []
        return [p for p in found if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


OF_PLUGINS = "If a plugin has it: --plugin MODULE."
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def configurable(module: str) -> Callable[[Decorated], Decorated]:
    """Typed `gin.configurable`, `module.name` in gin files; the name alone where no other module has it."""

    def decorate(item: Decorated) -> Decorated:
        return cast(Decorated, gin.configurable(item.__name__, module=module)(item))

    return decorate


class Registry(Generic[T]):
    """All components of one kind, by name.

    Args:
        kind: what the components are, as used in `dqlab list KIND` and as the gin module `KIND.<configurable>`.
        summary: one line on what a component of this kind does.
        chosen_by: the gin parameter that chooses a component of this kind, such as `DiffusionPolicy.schedule`.
        chosen_as: its value in gin for a component called `{}`.
        arguments: how many arguments whoever calls a component gives it: those are no gin parameters, though they may
            have defaults. Parameters without a default never are.
    """

    kinds: ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(
        self, kind: str, summary: str, chosen_by: str = "", *, chosen_as: str = "'{}'", arguments: int = 0
    ) -> None:
        self.kind, self.summary, self.arguments = kind, summary, arguments
        self.chosen_by, self.chosen_as = chosen_by, chosen_as
        self.package = _caller().partition(":")[0].split(".")[0]
        self.entries: dict[str, RegistryEntry[T]] = {}
        Registry.kinds[kind] = self

    def register(
        self, name: str, *, source: str = "", cites: Sequence[str] = (), example: Mapping[str, Any] | None = None
    ) -> Callable[[Decorated], Decorated]:
        """Decorator: file a function or class under `name`, as a gin configurable of its Python name.

        Args:
            name: the name that gin files use to choose this component; a ConfigError where it, or its Python name in
                gin files, is taken by another place in the code.
            source: paper, equation or program that it comes from.
            cites: keys of the works that the source names, as references.bib has them.
            example: values of parameters without which the component means nothing; shown in its gin example, and what
                the conformance suite tries it with.
        """
        place = _caller()

        def decorate(item: Decorated) -> Decorated:
            text = item.__doc__ if isinstance(item.__doc__, str) else ""
            docstring = "" if text.startswith(f"{item.__name__}(") else inspect.cleandoc(text)  # a list of fields
            given = (dict(example or {}), tuple(cites))
            entry = RegistryEntry(name, cast(T, item), source, place, docstring, item.__name__, *given)
            self._check_names(entry)
            component = configurable(self.kind)(item)
            self.entries[name] = replace(entry, item=cast(T, component))
            return component

        return decorate

    def add(
        self, name: str, item: T, *, source: str = "", cites: Sequence[str] = (), summary: str = "", family: str = ""
    ) -> None:
        """File a plain value (a task's facts, say) under `name`; not a gin configurable."""
        entry = RegistryEntry(name, item, source, _caller(), summary, cites=tuple(cites), family=family)
        self._check_names(entry)
        self.entries[name] = entry

    def entry(self, name: str) -> RegistryEntry[T]:
        """The component called `name`; a ConfigError with the nearest names where nobody has it."""
        fill_registries()
        if name not in self.entries:
            place = bound_at(self.chosen_by.rpartition(".")[2], name)
            said = f"Unknown {self.kind} '{name}'. {nearest_of_few(str(name), self.entries)} {OF_PLUGINS}"
            raise ConfigError(f"{place.replace('--set ', '--set: ')}{said}")
        return self.entries[name]

    def get(self, name: str) -> T:
        """The component itself; raises as `entry` does."""
        return self.entry(name).item

    def choose(self, choice: str | T) -> T:
        """The component called `choice`; a component itself (from code, or a gin reference) is handed back."""
        return self.get(choice) if isinstance(choice, str) else choice

    def remove(self, name: str) -> None:
        """Forget a component, so that its names can be given to another (a notebook's re-run cell, a test)."""
        entry = self.entries.pop(name)
        if entry.gin_name:
            remove_configurable(self.selector(entry))

    def names(self) -> list[str]:
        """All names, sorted."""
        fill_registries()
        return sorted(self.entries)

    def families(self) -> list[list[RegistryEntry[T]]]:
        """All components, in the order of their names: those of a family together, every other one alone."""
        found: dict[str, list[RegistryEntry[T]]] = {}
        for entry in self:
            found.setdefault(entry.family or f"'{entry.name}'", []).append(entry)
        return list(found.values())

    def __iter__(self) -> Iterator[RegistryEntry[T]]:
        return iter(self.entries[name] for name in self.names())

    def __contains__(self, name: object) -> bool:
        fill_registries()
        return name in self.entries

    def selector(self, entry: RegistryEntry[T]) -> str:
        """The complete gin name of a component."""
        return f"{self.kind}.{entry.gin_name}"

    def _check_names(self, entry: RegistryEntry[T]) -> None:
        """See that a component can have its name, and its Python name in gin files."""
        name, selector = entry.name, self.selector(entry)
        if not (isinstance(name, str) and re.fullmatch(r"[\w./+~-]+", name)):
            raise ConfigError(f"{entry.place}: {name!r} is no name for a {self.kind}: letters, digits and ._+-/~ only.")
        if name in self.entries:
            said = f"The {self.kind} name '{name}' is taken twice: by {self.entries[name].place} and by {entry.place}"
            raise ConfigError(f"{said}. Rename one of them.")
        if entry.gin_name and configurables().get(selector, entry.item) is not entry.item:
            first = next((each.place for each in self.entries.values() if each.gin_name == entry.gin_name), "a plugin")
            said = f"The gin name '{selector}' is taken twice: by {first} and by {entry.place}"
            raise ConfigError(f"{said}. Rename one of the two functions or classes.")


def registry_of(kind: str) -> Registry[Any]:
    """The registry of a kind; a ConfigError with the nearest ones where it is unknown."""
    fill_registries()
    if kind not in Registry.kinds:
        entries = [(each, entry) for each, registry in Registry.kinds.items() for entry in registry]
        meant = [f"'{each} {entry.name}'" for each, entry in entries if kind in (entry.name, entry.gin_name)]
        hint = f"Did you mean {' or '.join(meant)}?" if meant else nearest(kind, Registry.kinds)
        raise ConfigError(f"Unknown kind '{kind}'. {hint}")
    return Registry.kinds[kind]


COMPONENTS = re.compile(rb"\n(@\w+\.register|\w+\.add)\(")
"""How a file says that it has components: so a new one is found by being there."""


@cache
def fill_registries() -> None:
    """Import dqlab's own components, which needs torch, numpy and gin only; plugins are loaded by the command line."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "scaffold_templates" not in path.parts and COMPONENTS.search(path.read_bytes()):
            importlib.import_module(".".join(("dqlab", *path.relative_to(PACKAGE).with_suffix("").parts)))


def _caller() -> str:
    """`module:line` that calls a registry's method."""
    frame = sys._getframe(2)
    return f"{frame.f_globals.get('__name__', '__main__')}:{frame.f_lineno}"


def unknown_name(name: str, mark: str = "") -> str:
    """What to say of a gin name that nothing has."""
    short = {other.rsplit(".", 1)[-1] for other in configurables()}
    return f"nothing is called '{mark}{name}'. {nearest(name, short)} {OF_PLUGINS}"
