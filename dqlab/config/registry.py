"""One registry class for every exchangeable component: a decorator names the component and makes it a gin configurable.

Noise schedules, denoisers, critics, selections, samplers, policies, algorithms, datasets, tasks and the rest
are all looked up here; nothing in dqlab asks `if name == ...`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar, cast

import gin

from dqlab.config import gin_state
from dqlab.config.gin_state import configurables
from dqlab.errors import ConfigError, nearest, nearest_of_few

T = TypeVar("T")


@dataclass(frozen=True)
class RegistryEntry(Generic[T]):
    """A registered component: its name, itself, and what `dqlab list` says of it.

    Attributes:
        name, item: what gin values say, and the component (a gin configurable).
        source: paper and equation.
        cites: keys of the works that the source names, as references.bib has them.
        place: `module:line` of its code.
        module: the module that registered it.
        docstring: its own; its first line is the summary.
        gin_name: the Python name under which gin files set its parameters; empty for a plain value.
        example: values of parameters without which the component means nothing (a schedule's list of betas, say).
    """

    name: str
    item: T
    source: str = ""
    place: str = ""
    module: str = ""
    docstring: str = ""
    gin_name: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    cites: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return self.docstring.split("\n", 1)[0]

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

    def parameters(self) -> dict[str, Any]:
        """Parameters of the component and their defaults (`inspect.Parameter.empty` where the caller supplies them)."""
        return {parameter.name: parameter.default for parameter in self.signature()}


@dataclass(frozen=True)
class Clash:
    """One name of one kind, claimed by several components, the latest claim last."""

    kind: str
    name: str
    claims: Sequence[RegistryEntry[Any]]


OnClash = Callable[[Clash], str]


def refuse_clash(clash: Clash) -> str:
    """The usual answer to a second claim.

    Raises:
        ConfigError: always; the message names both places.
    """
    places = " and by ".join(claim.place for claim in clash.claims)
    raise ConfigError(f"The {clash.kind} name '{clash.name}' is taken twice: by {places}. Rename one of them.")


def docstring_of(item: Any) -> str:
    """An item's own docstring; that of a base class, or a dataclass's list of fields, says nothing of it."""
    text = item.__doc__ if isinstance(item.__doc__, str) else ""
    return "" if text.startswith(f"{item.__name__}(") else inspect.cleandoc(text)


def source_place(item: Any) -> str:
    """`module:line` of a function or class."""
    try:
        return f"{item.__module__}:{inspect.getsourcelines(item)[1]}"
    except (OSError, TypeError):
        return str(item.__module__)


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def configurable(module: str) -> Callable[[Decorated], Decorated]:
    """Typed `gin.configurable`: gin files may set the parameters of the decorated function or class.

    Args:
        module: qualifies the name where two configurables share it: `module.name.parameter = value`.
    """

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
    on_clash: ClassVar[OnClash] = staticmethod(refuse_clash)
    """What becomes of a name's second claim: it raises; or it says why nobody has the name; or, with an empty text,
    the first claim stands and the second is dropped."""

    def __init__(
        self, kind: str, summary: str, chosen_by: str = "", *, chosen_as: str = "'{}'", arguments: int = 0
    ) -> None:
        self.kind = kind
        self.summary = summary
        self.chosen_by = chosen_by
        self.chosen_as = chosen_as
        self.arguments = arguments
        self.module, _ = _caller()
        self.entries: dict[str, RegistryEntry[T]] = {}
        self.clashes: dict[str, tuple[Clash, str]] = {}
        Registry.kinds[kind] = self

    def register(
        self, name: str, *, source: str = "", cites: Sequence[str] = (), example: Mapping[str, Any] | None = None
    ) -> Callable[[Decorated], Decorated]:
        """Decorator: file a function or class under `name`, as a gin configurable of its Python name.

        Args:
            name: the name that gin files use to choose this component.
            source: paper, equation or program that it comes from.
            cites: keys of the works that the source names, as references.bib has them.
            example: values of parameters without which the component means nothing; shown in its gin example, and what
                the conformance suite tries it with.

        Raises:
            ConfigError: the name is taken, by another place in the code; or its Python name is, in gin files.
        """
        module, _ = _caller()

        def decorate(item: Decorated) -> Decorated:
            facts = (source, source_place(item), module, docstring_of(item), item.__name__)
            entry = RegistryEntry(name, cast(T, item), *facts, dict(example or {}), tuple(cites))
            if not self._free(entry):
                return item
            self._check_gin_name(entry)
            component = configurable(self.kind)(item)
            self.entries[name] = replace(entry, item=cast(T, component))
            return component

        return decorate

    def add(self, name: str, item: T, *, source: str = "", cites: Sequence[str] = (), summary: str = "") -> None:
        """File a plain value (a task's facts, say) under `name`; not a gin configurable."""
        module, line = _caller()
        entry = RegistryEntry(name, item, source, f"{module}:{line}", module, summary, cites=tuple(cites))
        if self._free(entry):
            self.entries[name] = entry

    def entry(self, name: str) -> RegistryEntry[T]:
        """The component called `name`, with what is known of it.

        Raises:
            ConfigError: no component has that name (the message names the nearest ones), or several plugins claim it.
        """
        _fill_registries()
        if name in self.clashes and name not in self.entries:
            raise ConfigError(self.clashes[name][1])
        if name not in self.entries:
            raise ConfigError(f"Unknown {self.kind} '{name}'. {nearest_of_few(str(name), self.entries)}")
        return self.entries[name]

    def get(self, name: str) -> T:
        """The component itself; raises as `entry` does."""
        return self.entry(name).item

    def choose(self, choice: str | T) -> T:
        """The component called `choice`; a component itself (from code, or a gin reference) is handed back."""
        return self.get(choice) if isinstance(choice, str) else choice

    def remove(self, name: str) -> None:
        """Forget a component, so that its names can be given to another (a notebook's re-run cell, a test)."""
        self.clashes.pop(name, None)
        self._withdraw(self.entries.pop(name))

    def names(self) -> list[str]:
        """All names, sorted."""
        _fill_registries()
        return sorted(self.entries)

    def __iter__(self) -> Iterator[RegistryEntry[T]]:
        return iter(self.entries[name] for name in self.names())

    def __contains__(self, name: object) -> bool:
        _fill_registries()
        return name in self.entries

    def selector(self, entry: RegistryEntry[T]) -> str:
        """The complete gin name of a component."""
        return f"{self.kind}.{entry.gin_name}"

    def _free(self, entry: RegistryEntry[T]) -> bool:
        """Whether the component may have its name: a second claim goes to `on_clash`; a contested name is nobody's."""
        name = entry.name
        if not (isinstance(name, str) and re.fullmatch(r"[\w./+~-]+", name)):
            raise ConfigError(f"{entry.place}: {name!r} is no name for a {self.kind}: letters, digits and ._+-/~ only.")
        if name not in self.entries and name not in self.clashes:
            return True
        earlier = [self.entries[name]] if name in self.entries else self.clashes[name][0].claims
        clash = Clash(self.kind, name, (*earlier, entry))
        reason = Registry.on_clash(clash)
        self.clashes[name] = (clash, reason)
        if reason and name in self.entries:
            self._withdraw(self.entries.pop(name))
        return False

    def _check_gin_name(self, entry: RegistryEntry[T]) -> None:
        selector = self.selector(entry)
        taken = gin_state.wrapped_configurable(selector)
        if taken is not None and taken is not entry.item:
            raise ConfigError(
                f"The gin name '{selector}' is taken twice: by {source_place(taken)} and by {entry.place}. "
                "Rename one of the two functions or classes."
            )

    def _withdraw(self, entry: RegistryEntry[T]) -> None:
        if entry.gin_name:
            gin_state.remove_configurable(self.selector(entry))


def registry_of(kind: str) -> Registry[Any]:
    """The registry of a kind.

    Raises:
        ConfigError: unknown kind; the message names the nearest ones.
    """
    _fill_registries()
    if kind not in Registry.kinds:
        raise ConfigError(f"Unknown kind '{kind}'. {nearest(kind, Registry.kinds)}")
    return Registry.kinds[kind]


def contested(gin_name: str) -> str:
    """Why a gin name is nobody's, where plugins claim its component's name; empty otherwise."""
    for registry in Registry.kinds.values():
        for clash, reason in registry.clashes.values():
            if reason and gin_name.split(".")[-1] in {claim.gin_name for claim in clash.claims}:
                return reason
    return ""


def _fill_registries() -> None:
    """Import dqlab's own components on first use; plugins are loaded by the command line."""
    importlib.import_module("dqlab.config.components")


def _caller() -> tuple[str, int]:
    """Module and line that call a registry's method."""
    frame = sys._getframe(2)
    return str(frame.f_globals.get("__name__", "__main__")), frame.f_lineno


def unknown_name(name: str, mark: str = "") -> str:
    """What to say of a gin name that nothing has: why it is nobody's, or the nearest ones."""
    short = {other.rsplit(".", 1)[-1] for other in configurables()}
    return contested(name) or f"nothing is called '{mark}{name}'. {nearest(name, short)}"
