"""Text that others have written, made fit to be printed or stored: no passwords, no control characters, bounded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from dqlab.errors import first_line

LONGEST = 4_000
"""Characters of one message."""
LONGEST_NAME = 80
MOST_NAMES = 20

USER = re.compile(r"""(://)(?:[^\s/?#'"]*@|[^\s/@:'"]*:(?!\d+/)[^\s'"]*@)""")
SECRET = re.compile(r"""(?i)([?&;][\w.-]*(?:passw|pwd|token|secret|credential|key)[\w.-]*=)[^&;\s#'"]+""")
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode's categories of what a terminal obeys, or does not show."""


def masked(text: str) -> str:
    """A text with `***` for users and passwords in its addresses, and for secrets in their queries."""
    return SECRET.sub(r"\1***", USER.sub(r"\1***@", text))


def printable(text: object, most: int = LONGEST, keep: str = "\n\t") -> str:
    """A text that a terminal shows and does not obey: control characters as escapes, its middle left out if it is long.

    Args:
        text: what others may have written.
        most: characters, of which the first and the last ones are kept.
        keep: control characters that stay.
    """
    whole = str(text)
    shown = whole
    if len(whole) > most:
        half = most // 2
        shown = f"{whole[:half]} ... {whole[-half:]} ({len(whole):,} characters)"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(c if c in keep or unicodedata.category(c) not in HIDDEN else ascii(c)[1:-1] for c in shown)


def name(text: object) -> str:
    """A name out of a file, in one line."""
    return printable(text, LONGEST_NAME, keep="")


def names(texts: Iterable[object]) -> str:
    """Names out of a file, sorted and separated by commas; many are cut short."""
    listed = sorted(map(str, texts))
    more = f", ... ({len(listed):,} in all)" if len(listed) > MOST_NAMES else ""
    return ", ".join(map(name, listed[:MOST_NAMES])) + more


def one_line(error: BaseException, most: int = 300) -> str:
    """The first line of what an error says, or its name where it says nothing; without passwords."""
    said = str(getattr(error, "strerror", None) or first_line(error)).splitlines()[0]
    return printable(masked(said), most, keep="")
