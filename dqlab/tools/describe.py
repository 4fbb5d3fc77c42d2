"""`dqlab list` and `dqlab describe`: components as text, JSON and Markdown, and the contract of their kinds."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from dqlab.config.fields import bound_of
from dqlab.config.gin_state import configurables, plain_value, shortest_name
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.errors import ConfigError
from dqlab.printing import Console
from dqlab.tools.conformance.suite import CHECKS


def registries_of(kind: str | None) -> list[Registry[Any]]:
    """The registry of one kind, or all of them in the order of their names; so do the lists here take a kind."""
    return [registry_of(kind)] if kind else [registry for _, registry in sorted(Registry.kinds.items())]


def is_plain(value: Any) -> bool:
    """Whether gin files can say a value."""
    try:
        return plain_value(value) is value and bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def gin_parameters(registry: Registry[Any], entry: RegistryEntry[Any]) -> dict[str, Any]:
    """The parameters that gin files set, with their defaults: all but those that whoever calls the component gives."""
    own = entry.signature()[registry.arguments :]
    given = {parameter.name: parameter.default for parameter in own if parameter.default is not parameter.empty}
    return {**entry.example, **given, **entry.example}  # the example's come first, and have its values


def gin_example(registry: Registry[Any], entry: RegistryEntry[Any]) -> list[str]:
    """Lines of a gin file that choose a component and set each of its parameters that has a plain value."""
    choice = [f"{registry.chosen_by} = {registry.chosen_as.format(entry.name)}"] if registry.chosen_by else []
    if not entry.gin_name:
        return choice
    name = shortest_name(registry.selector(entry))
    values = gin_parameters(registry, entry).items()
    return choice + [f"{name}.{key} = {value!r}" for key, value in values if is_plain(value)]


def component_record(registry: Registry[Any], entry: RegistryEntry[Any]) -> dict[str, Any]:
    """Everything that is known of a component, as JSON says it."""
    by_gin = gin_parameters(registry, entry)
    return {
        "kind": registry.kind,
        **{name: getattr(entry, name) for name in ("name", "gin_name", "summary", "docstring")},
        "parameters": [_parameter(parameter, by_gin) for parameter in entry.signature()],
        "source": entry.source,
        "cites": list(entry.cites),
        "place": entry.place,
        "package": entry.package,
        "gin_example": gin_example(registry, entry),
    }


def _parameter(parameter: inspect.Parameter, by_gin: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter; what has no plain default has its name or representation, and what has none has no `default`."""
    kind = "" if parameter.annotation is parameter.empty else inspect.formatannotation(parameter.annotation)
    bound, default = bound_of(parameter.annotation), parameter.default
    typed = f"{bound.plain}, {bound.wanted}" if bound else kind.strip("'")
    known = {"name": parameter.name, "annotation": typed, "set_by": "gin" if parameter.name in by_gin else "caller"}
    if default is not parameter.empty:
        known["default"] = default if is_plain(default) else getattr(default, "__name__", repr(default))
    return known


def components_as_json(kind: str | None) -> str:
    """Every component of one kind or of all, as a JSON list of objects."""
    return json.dumps([component_record(each, entry) for each in registries_of(kind) for entry in each], indent=2)


def print_components(kind: str | None) -> None:
    """Every component of one kind, with its parameters, defaults and source; without one, the kinds."""
    console = Console()
    if kind is None:
        kinds = Table(Column(no_wrap=True), Column(justify="right"), Column(), box=None, show_header=False)
        for registry in registries_of(None):
            kinds.add_row(registry.kind, str(len(registry.names())), registry.summary)
        console.print(kinds)
        console.print("\n`dqlab list KIND` shows those of a kind, `dqlab list --json` all of them.")
        return
    registry = registry_of(kind)
    console.print(Text(f"\n{registry.kind}: {registry.summary}", style="bold"))
    for entry, *others in registry.families():
        name, text = entry.name, entry.summary
        if others:
            name, text = entry.family, f"{len(others) + 1} names, such as {entry.name}: {entry.summary}"
        if len(name) > 24:  # a line of its own
            console.print(f"  {name}", soft_wrap=True)
            name = ""
        lines = Table.grid(Column(width=26, no_wrap=True), Column(overflow="fold"), padding=(0, 1))
        lines.add_row(f"  {name}", text)
        details = [f"gin name {entry.gin_name}"] if entry.gin_name else []
        given = gin_parameters(registry, entry).items()
        details += [f"{key}={getattr(value, '__name__', repr(value))}" for key, value in given]
        for line in filter(None, (", ".join(details), entry.source)):
            lines.add_row("", Text(line, style="dim"))
        console.print(lines)


PREFACE = """# Components

What gin files can choose, as `dqlab list --markdown` writes it (`make components`). `dqlab list KIND` shows
parameters and defaults too, `dqlab describe KIND NAME` everything, and both show the components of your plugins."""


def components_markdown(kind: str | None = None) -> str:
    """dqlab's own components, a table a kind: the text of docs/components.md. Plugins do not change it."""
    lines = [PREFACE]
    for registry in (each for each in registries_of(kind) if each.package == "dqlab"):
        lines += ["", f"## {registry.kind}", "", registry.summary]
        lines += ["", f"Chosen by `{registry.chosen_by}`."] if registry.chosen_by else []
        lines += ["", "| name | what | source |", "|---|---|---|"]
        for entry, *others in (family for family in registry.families() if family[0].package == "dqlab"):
            name = f"`{entry.family if others else entry.name}`"
            what = f"{len(others) + 1} names; {entry.name}: {entry.summary}" if others else entry.summary
            lines.append(f"| {_escaped(name)} | {_escaped(what)} | {_escaped(entry.source)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text as Markdown shows it in a table; what stands in backquotes is code already."""
    code = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else re.sub(r"([*<])", r"\\\1", part) for index, part in enumerate(code))


def describe(kind: str, name: str) -> str:
    """All about one component; where kind or name is unknown, a ConfigError names the nearest ones."""
    registry = registry_of(kind)
    if not name:
        raise ConfigError(f"Which {kind}? Known: {', '.join(registry.names())}. `dqlab list {kind}` describes them.")
    entry = registry.entry(name)
    known = component_record(registry, entry)
    parameter, parameters = registry.chosen_by.rpartition(".")[2], []
    choosing = [key for key, item in configurables().items() if parameter in getattr(item, "__dataclass_fields__", ())]
    others = sorted({f"{shortest_name(key)}.{parameter}" for key in choosing} - {registry.chosen_by})
    for each in known["parameters"]:
        typed = f": {each['annotation']}" if each["annotation"] else ""
        default = f" = {each['default']!r}" if "default" in each else ""
        parameters.append(each["name"] + typed + default + "  (given by the caller)" * (each["set_by"] != "gin"))
    sections = {
        "Inherited": _inherited(entry),
        "Parameters": parameters,
        "In a gin file": known["gin_example"] + [f"# or, where that is what runs: {', '.join(others)}"] * bool(others),
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
    ours = [vars(each) for each in reversed(base.__mro__) if _is_ours(each)]
    for name, member in {name: member for each in ours for name, member in each.items()}.items():
        public = inspect.isfunction(member) and (not name.startswith("_") or name == "__call__")
        if public and all(hasattr(other, name) for other in own):
            said = [each[name].__doc__ for each in ours if inspect.isfunction(each.get(name)) and each[name].__doc__]
            summary = f": {said[-1].splitlines()[0]}" if said else ""
            names = ", ".join(each for each in inspect.signature(member).parameters if each != "self")
            must = "must define " if getattr(member, "__isabstractmethod__", False) else ""
            shown = "component" if name == "__call__" and not must else name
            yield f"{must}{shown}({names}){summary}"


def _is_ours(base: type) -> bool:
    return base.__module__.split(".")[0] == "dqlab"
