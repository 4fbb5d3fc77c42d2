"""Files damaged at random, as a full disk, a flipped bit, another program or an enemy would leave them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

DEEP = "[" * 5000 + "]" * 5000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**400, -(10**400), 2**64, 2**31, 1e308, -1e308, 0.5, float("nan"), float("inf")),
    *("", "x", "x" * 5000, "../../x", "/etc", "\x1b[31m", "a\nb", "\0", "[bold]x[/bold]", "nan", "1e999", "seed-0"),
    *([], {}, [[]], [None], {"": {}}, {"seed": -1}, {"seed": 0, "more": 1}, ["a", 1, {}], {"../x": {"seed": 0}}),
)
ODD = (b"\xff\xfe", b"\xef\xbb\xbf{}", DEEP.encode(), b"1" * 5000, b"\0" * 100)
TEXTS = (b"", b"null", b"[]", b"{}", b'"x"', b"{", *ODD)


def damaged(content: bytes, chance: Random) -> bytes:
    """Some bytes in a file's place: cut, flipped, partly or wholly others, or its JSON with another value or name."""
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    how = chance.randrange(10)
    if how == 0:
        return content[:start]
    if how == 1:
        return _flipped(content, chance)
    if how == 2:  # a piece becomes something else, or a second copy of another piece
        other = chance.choice([*TEXTS, content[start:end] * 2, chance.randbytes(9)])
        return content[:start] + other + content[chance.choice([start, end]) :]
    return chance.choice(TEXTS) if how == 3 else _changed(content, chance)


def _flipped(content: bytes, chance: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _changed(content: bytes, chance: Random) -> bytes:
    """One value, one name, or one entry of its JSON; of a journal, in one of its lines."""
    lines = content.split(b"\n")
    place = chance.randrange(max(1, len(lines) - 1)) if content.startswith(b'{"step"') else None
    try:
        found = json.loads(content if place is None else lines[place])
    except ValueError:
        return _flipped(content, chance)
    for _ in range(chance.randint(1, 2)):
        found = _one_changed(found, chance)
    text = json.dumps(found).encode()
    if chance.random() < 0.05:
        text = text.replace(b"null", DEEP.encode(), 1)
    return text if place is None else b"\n".join([*lines[:place], text, *lines[place + 1 :]])


def _one_changed(found: Any, chance: Random) -> Any:
    places = list(_places(found))
    if not places or chance.random() < 0.02:
        return deepcopy(chance.choice(VALUES))
    holder, key = chance.choice(places)
    how = chance.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[chance.choice(["", "x", "../../x", "\x1b[0m", "x" * 300, f"{key} "])] = holder.pop(key)
    else:
        holder[key] = deepcopy(chance.choice(VALUES))
    return found


def _places(found: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of every list and dict, with what holds it."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in list(items):
        yield found, key
        yield from _places(value)


@contextmanager
def one_damaged(paths: list[Path], chance: Random) -> Iterator[Path]:
    """One of the files is damaged within this, in a few cases it is gone or no file at all."""
    path, how = chance.choice(paths), chance.random()
    content = path.read_bytes()
    path.unlink()
    try:
        if how < 0.02:
            path.mkdir()
        elif how < 0.03:
            path.symlink_to(path)
        elif how < 0.04:
            os.mkfifo(path)
        elif how > 0.06:
            path.write_bytes(damaged(content, chance))
        yield path
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)
