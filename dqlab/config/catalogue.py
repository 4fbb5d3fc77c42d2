"""What there is to choose: the registered components as text, JSON and Markdown."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from dqlab.config.fields import bound_of
from dqlab.config.gin_state import configurables, plain_value, shortest_name
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.printing import Console


def registries_of(kind: str | None) -> list[Registry[Any]]:
    """The registry of one kind, or all of them in the order of their names; so do all functions here take a kind."""
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


def choosers(registry: Registry[Any]) -> list[str]:
    """Every gin parameter that chooses a component of this kind: those called as the one that the registry names."""
    parameter, known = registry.chosen_by.rpartition(".")[2], configurables().items()
    choosing = [name for name, item in known if parameter in getattr(item, "__dataclass_fields__", ())]
    return sorted(f"{shortest_name(name)}.{parameter}" for name in choosing)


def component_record(registry: Registry[Any], entry: RegistryEntry[Any]) -> dict[str, Any]:
    """Everything that is known of a component, as JSON says it."""
    by_gin = gin_parameters(registry, entry)
    return {
        "kind": registry.kind,
        "name": entry.name,
        "gin_name": entry.gin_name,
        "summary": entry.summary,
        "docstring": entry.docstring,
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
    set_by = "gin" if parameter.name in by_gin else "caller"
    known = {"name": parameter.name, "annotation": typed, "set_by": set_by}
    if default is not parameter.empty:
        known["default"] = default if is_plain(default) else _default(default)
    return known


def components_as_json(kind: str | None) -> str:
    """Every component of one kind or of all, as a JSON list of objects."""
    return json.dumps([component_record(each, entry) for each in registries_of(kind) for entry in each], indent=2)


def print_components(kind: str | None) -> None:
    """Every component of one kind or of all, with its parameters, defaults and source."""
    console = Console()
    for registry in registries_of(kind):
        console.print(Text(f"\n{registry.kind}: {registry.summary}", style="bold"))
        for entry, *others in registry.families():
            lines = Table.grid(padding=(0, 1))
            lines.add_column(width=26, no_wrap=True)
            lines.add_column(overflow="fold")
            name, text = (f"{len(others) + 1} names", entry.family) if others else (entry.name, entry.summary)
            lines.add_row(f"  {name}", text)
            details = [f"gin name {entry.gin_name}"] if entry.gin_name else []
            details += [f"{key}={_default(value)}" for key, value in gin_parameters(registry, entry).items()]
            such = f"such as {entry.name}: {entry.summary}" if others else ""
            for line in filter(None, (such, ", ".join(details), entry.source)):
                lines.add_row("", Text(line, style="dim"))
            console.print(lines)


def _default(value: Any) -> str:
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)


def components_markdown(kind: str | None = None) -> str:
    """dqlab's own components, a table a kind: the text of docs/components.md. Plugins do not change it."""
    own = [registry for registry in registries_of(kind) if registry.module.split(".")[0] == "dqlab"]
    return "\n".join([PREFACE, *(line for registry in own for line in _section(registry))])


PREFACE = """# Components

What gin files can choose, as `dqlab list --markdown` writes it (`make components`). `dqlab list KIND` shows
parameters and defaults too, `dqlab describe KIND NAME` everything, and both show the components of your plugins."""


def _section(registry: Registry[Any]) -> Iterator[str]:
    yield from ("", f"## {registry.kind}", "", registry.summary)
    yield from (("", f"Chosen by `{registry.chosen_by}`.") if registry.chosen_by else ())
    yield from ("", "| name | what | source |", "|---|---|---|")
    for entry, *others in registry.families():
        if entry.package == "dqlab":
            name = entry.family.replace("|", "\\|") if others else entry.name
            what = f"{len(others) + 1} names; {entry.name}: {entry.summary}" if others else entry.summary
            yield f"| `{name}` | {_cell(what)} | {_cell(entry.source)} |"


def _cell(text: str) -> str:
    """Text as Markdown shows it in a table; what stands in backquotes is code already."""
    code = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else re.sub(r"([*<])", r"\\\1", part) for index, part in enumerate(code))
