"""gin's statements, one by one: whatever its parser cannot read is one message with the line."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gin import config as gin_config
from gin import config_parser

from dqlab.errors import ConfigError, first_line, nearest, odd_character
from dqlab.files import read_user_text
from dqlab.gin_registry import configurables
from dqlab.registry import contested


def text_of(path: Path) -> str:
    """A gin file's text.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        return read_user_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}") from error


def statements(text: str, name: str, delegate: Any = None) -> Iterator[tuple[Any, str]]:
    """What a text says, and where: `name` with the line, or alone where it begins with `--`.

    Raises:
        ConfigError: gin's parser cannot read it, or a reference is to nothing.
    """
    parser = None
    while True:
        try:
            parser = parser or config_parser.ConfigParser(text, delegate or gin_config.ParserDelegate())
            statement = parser.parse_statement()
        except Exception as error:  # gin lets through what Python's tokenizer and parser raise, MemoryError included
            line = _line_of(error, parser)
            place = name if name.startswith("--") else f"{name}:{line}"
            raise ConfigError(f"{place}: {_unparsed(error)} {_odd(text, line)}".rstrip()) from error
        if statement is None:
            return
        yield statement, name if name.startswith("--") else f"{name}:{statement.location.line_num}"


def _odd(text: str, line: int) -> str:
    lines = text.split("\n")
    return odd_character(lines[min(line, len(lines)) - 1])


def _line_of(error: Exception, parser: Any) -> int:
    """The line that gin's error speaks of: in its location, in its message, or where the parser stands."""
    location = error.args[1] if len(error.args) > 1 else None
    named = re.search(r"In bindings string line (\d+)", str(error))
    begun = location[0] if isinstance(error, tokenize.TokenError) and location else None
    known = begun or getattr(location, "line_num", None) or (named and int(named[1]))
    return int(known or (parser.current_token.start[0] if parser else 1))


def _unparsed(error: Exception) -> str:
    """gin's complaint about a statement; an unknown reference gets the nearest names."""
    if isinstance(error, (RecursionError, MemoryError)):
        return "brackets are nested too deeply to be read."
    unknown = re.search(r"reference '@([\w./]+)", str(error))
    if not unknown:
        token = re.search(r"Failed to parse token '(.*)'", str(error))
        fault = f"cannot read the value {token[1]}" if token else _complaint(error)
        return f"{fault}. Write Name.parameter = value, one a line, strings in quotes."
    return unknown_name(unknown[1], "@")


def _complaint(error: Exception) -> str:
    if "EOF in multi-line string" in str(error):
        return "the quotes that open here are never closed"
    text = str(error.args[0] if error.args else error).split("\n  In bindings string", 1)[0]
    return next(iter(text.strip().splitlines()), first_line(error)).rstrip(".")


def unknown_name(name: str, mark: str = "") -> str:
    """What to say of a gin name that nothing has: why it is nobody's, or the nearest ones."""
    short = {other.rsplit(".", 1)[-1] for other in configurables()}
    return contested(name) or f"nothing is called '{mark}{name}'. {nearest(name, short)}"
