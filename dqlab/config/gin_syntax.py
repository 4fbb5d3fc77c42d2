"""gin's statements, one by one: whatever its parser cannot read is one message with the line."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config as gin_config
from gin import config_parser

from dqlab.config.gin_state import complete_name, plain_value
from dqlab.config.registry import unknown_name
from dqlab.errors import ConfigError, first_line, odd_character


def format_bindings(bindings: Mapping[str, Any]) -> str:
    """Bindings as gin statements, one a line."""
    return "".join(f"{name} = {value!r}\n" for name, value in bindings.items())


def bound_names(binding: str) -> list[str]:
    """What a single binding binds, as written."""
    found = parse_statements(quote_value(binding), f"--set {binding}")
    return [written_name(s) for s, _ in found if isinstance(s, config_parser.BindingStatement)]


def written_name(statement: Any) -> str:
    """The name that a statement binds, as its author wrote it."""
    scope = f"{statement.scope}/" if statement.scope else ""
    return f"{scope}{statement.selector}.{statement.arg_name}".rstrip(".")


def rebind_text(text: str, bindings: Mapping[str, Any]) -> str:
    """An operative text in which some parameters have other values; those that it does not have come last."""
    left = {complete_name(name): (name, value) for name, value in bindings.items()}
    lines, replaced = [], False
    for line in text.splitlines():
        if not line.startswith(" "):  # a statement begins; lines that continue one are indented
            name = line.partition("=")[0].strip()
            found = left.pop(complete_name(name), None)
            replaced = found is not None
            line = f"{name} = {found[1]!r}" if found else line
        elif replaced:
            continue
        lines.append(line)
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in left.values())]) + "\n"


class _AsText(config_parser.ParserDelegate):  # type: ignore[misc]
    """References and macros as they are written: what they name need not be known."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> str:
        return f"@{scoped_selector}{'()' if evaluate else ''}"

    def macro(self, name: str) -> str:
        return f"%{name}"


def parse_bindings(text: str, name: str = "config.gin") -> dict[str, Any]:
    """A gin text's bindings, references as texts such as `@vp()`; where it is none, a ConfigError about `name`."""
    found = parse_statements(text, name, _AsText())
    return {written_name(s): plain_value(s.value) for s, _ in found if isinstance(s, config_parser.BindingStatement)}


def quote_value(binding: str) -> str:
    """Let `--set task=walker2d-medium-v2` do without inner quotes, which the shell would eat."""
    name, separator, value = binding.partition("=")
    value = value.strip()
    if not separator or not re.fullmatch(r"[A-Za-z_][\w./:+~-]*", value) or value in ("True", "False", "None"):
        return binding
    return f"{name}='{value}'"


def parse_statements(text: str, name: str, delegate: Any = None) -> Iterator[tuple[Any, str]]:
    """A text's statements, and where each stands: `name` (with the line, unless it begins with `--`); a ConfigError."""
    parser, numbered = None, "{}" if name.startswith("--") else "{}:{}"
    try:
        parser = config_parser.ConfigParser(text, delegate or gin_config.ParserDelegate())
        for statement in parser:
            yield statement, numbered.format(name, statement.location.line_num)
    except Exception as error:  # gin lets through what Python's tokenizer and parser raise, MemoryError included
        line, lines = _line_of(error, parser), text.split("\n")
        odd = odd_character(lines[min(line, len(lines)) - 1])
        raise ConfigError(f"{numbered.format(name, line)}: {_unparsed(error)} {odd}".rstrip()) from error


def _line_of(error: Exception, parser: Any) -> int:
    """The line that gin's error speaks of: in its location, in its message, or where the parser stands."""
    location = error.args[1] if len(error.args) > 1 else None
    if isinstance(error, tokenize.TokenError) and location:
        return int(location[0])
    named = re.search(r"In bindings string line (\d+)", str(error))
    known = getattr(location, "line_num", None) or (named and named[1])
    return int(known or (parser.current_token.start[0] if parser else 1))


def _unparsed(error: Exception) -> str:
    """gin's complaint about a statement; an unknown reference gets the nearest names."""
    if isinstance(error, (RecursionError, MemoryError)):
        return "brackets are nested too deeply to be read."
    if unknown := re.search(r"reference '@([\w./]+)", str(error)):
        return unknown_name(unknown[1], "@")
    text = str(error.args[0] if error.args else error).strip().partition("\n")[0]
    fault = "the quotes that open here are never closed" if "EOF in multi-line string" in text else text.rstrip(".")
    if token := re.search(r"Failed to parse token '(.*)'", str(error)):
        fault = f"cannot read the value {token[1]}"
    return f"{fault or first_line(error)}. Write Name.parameter = value, one a line, strings in quotes."
