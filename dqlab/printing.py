"""The console, which shows what others have written and has no terminal obey it; how numbers and lists are said."""

from __future__ import annotations

import errno
import math
import os
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich import console as rich
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from dqlab.errors import printable


class Console(rich.Console):
    """rich's, to which `[bold]` in a text is that text, as are control characters.

    A notebook gets plain lines: its streams call themselves terminals, but do not go up a line, and rich's widgets
    are shown there even where it is to be quiet.
    """

    def __init__(self, **options: Any) -> None:
        ipython: Any = sys.modules.get("IPython")  # that its package was imported says nothing: is there a kernel?
        if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
            options["force_terminal"] = False
        super().__init__(markup=False, emoji=False, force_jupyter=False, **options)

    def status(self, status: Any, **options: Any) -> Status:
        """A spinner; nothing at all, not rich's empty line either, where there is no terminal."""
        return Status(status, console=self if self.is_terminal else rich.Console(quiet=True), **options)

    def say(self, text: str, style: str = "") -> None:
        """One line; on a terminal it is broken between words, a path is not."""
        known: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        lines = textwrap.wrap(text, self.width, **known) if self.is_terminal else [text]
        for line in lines or [""]:
            self.print(Text(line, style=style), soft_wrap=True)

    def _check_buffer(self) -> None:
        """As rich does; but a terminal that has gone (a lost connection, `disown`) ends nothing: it is told no more."""
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.file.fileno())

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich styles it, which is measured as it will be shown."""
        return super().render_str(printable(text, len(text)), **options)

    def render(self, renderable: Any, options: rich.ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, without control characters but rich's own."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else printable(segment.text, len(segment.text))
            yield segment._replace(text=shown)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """A Markdown table; `numbers` are the columns that are set to the right."""
    lines = [heads, ["--:" if index in numbers else "---" for index in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


MINUS = "\u2212"
NOTHING = "\u2013"


def format_points(value: float, signed: bool = False, decimals: int = 1) -> str:
    """A score, a difference of scores or a share, with a real minus; a dash where there is none."""
    if math.isnan(value):
        return NOTHING
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    return (f"{0:.{decimals}f}" if float(text) == 0 else text).replace("-", MINUS)


def format_interval(low: float, high: float, signed: bool = False, decimals: int = 1) -> str:
    """`[low, high]`, or nothing where there is none."""
    bounds = (format_points(bound, signed, decimals) for bound in (low, high))
    return "" if math.isnan(low) else f"[{', '.join(bounds)}]"


def p_value(p: float) -> str:
    """A p-value to two significant digits; a dash where there is none."""
    return NOTHING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def counted(number: int, one: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def enumerate_names(named: Iterable[object], most: int = 6) -> str:
    """`a, b and c`, each once; beyond `most`, the first ones and how many more; with commas, parted by semicolons."""
    names = list(dict.fromkeys(map(str, named)))
    comma = "; " if any(", " in name for name in names[:most]) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    last = f"{comma.strip() if comma == '; ' else ''} and "
    return last.join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"
