"""One component described: its docstring, parameters and gin example, and the contract of its kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from dqlab.config.catalogue import choosers, component_record, gin_parameters
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.errors import ConfigError
from dqlab.tools.conformance.suite import CHECKS


def describe(kind: str, name: str) -> str:
    """All about one component; where kind or name is unknown, a ConfigError names the nearest ones."""
    registry = registry_of(kind)
    if not name:
        raise ConfigError(f"Which {kind}? Known: {', '.join(registry.names())}. `dqlab list {kind}` describes them.")
    entry = registry.entry(name)
    known = component_record(registry, entry)
    others = ", ".join(name for name in choosers(registry) if name != registry.chosen_by)
    sections = {
        "Inherited": _inherited(entry),
        "Parameters": [_parameter_line(parameter) for parameter in known["parameters"]],
        "In a gin file": [*known["gin_example"], *([f"# or, where that is what runs: {others}"] if others else [])],
        f"Contract of {kind}": contract(registry, entry),
        "Source": [entry.source] if entry.source else [],
        "Place": [f"{entry.place}, of the package {entry.package}"],
    }
    text = f"{kind} '{name}'\n\n{entry.docstring}"
    for title, lines in sections.items():
        text += "".join(["\n\n", title, ":", *(f"\n  {line}" for line in lines)]) if lines else ""
    return text


def _inherited(entry: RegistryEntry[Any]) -> list[str]:
    """What the docstrings of a component's ancestors say of attributes that it has from them."""
    item: Any = entry.item
    ancestors = [base for base in item.__mro__[1:] if _is_ours(base)] if inspect.isclass(item) else []
    texts = [inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2] for base in ancestors]
    return [line.removeprefix("    ") for text in texts for line in text.split("\n\n")[0].splitlines()]


def _parameter_line(known: Mapping[str, Any]) -> str:
    kind = f": {known['annotation']}" if known["annotation"] else ""
    default = f" = {known['default']!r}" if "default" in known else ""
    return f"{known['name']}{kind}{default}" + ("" if known["set_by"] == "gin" else "  (given by the caller)")


def contract(registry: Registry[Any], entry: RegistryEntry[Any]) -> list[str]:
    """What every component of a kind must be: what its base class says, or how it is called; and what is checked."""
    item: Any = entry.item
    by_gin, lines = gin_parameters(registry, entry), [registry.summary]
    called = ", ".join(parameter.name for parameter in entry.signature() if parameter.name not in by_gin)
    if inspect.isclass(item):
        own = [other.item for other in registry if other.package == "dqlab"]
        bases = [base for base in item.__mro__[1:] if _is_ours(base) and all(issubclass(other, base) for other in own)]
        base = bases[-1] if bases else item
        said = f"derived from {base.__module__}.{base.__qualname__}" if bases else f"such as {item.__qualname__}"
        lines += [f"made as Component({called}), {said}", *_methods(base, own)]
    elif callable(item):
        lines.append(f"called as component({called})")
    if check := CHECKS.get(registry.kind):
        what = inspect.getdoc(getattr(check, "func", check)) or ""
        lines.append("dqlab.testing.check: " + " ".join(what.split("\n\n")[0].split()))
    return lines


def _methods(base: type, own: list[type]) -> Iterator[str]:
    """Public methods that a class and all components of its kind have, its ancestors' of dqlab included."""
    named = {name: member for ours in reversed(base.__mro__) if _is_ours(ours) for name, member in vars(ours).items()}
    for name, member in named.items():
        public = inspect.isfunction(member) and (not name.startswith("_") or name == "__call__")
        if public and all(hasattr(other, name) for other in own):
            summary = (inspect.getdoc(member) or "").split("\n", 1)[0]
            names = ", ".join(each for each in inspect.signature(member).parameters if each != "self")
            must = "must define " if getattr(member, "__isabstractmethod__", False) else ""
            yield f"{must}{name}({names}): {summary}".replace("__call__(", "component(")


def _is_ours(base: type) -> bool:
    return base.__module__.split(".")[0] == "dqlab"
