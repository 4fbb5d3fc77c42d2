"""How results are said: numbers, intervals, lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\u2212"


def format_points(value: float, signed: bool = False) -> str:
    """A score or a difference of scores, one decimal, with a real minus."""
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return typographic_minus("0.0" if float(text) == 0 else text)


def typographic_minus(text: str) -> str:
    """A number with the typographic minus instead of the hyphen."""
    return text.replace("-", MINUS)


def format_interval(low: float, high: float, signed: bool = False) -> str:
    """`[low, high]`, or nothing where there is none."""
    return "" if math.isnan(low) else f"[{format_points(low, signed)}, {format_points(high, signed)}]"


def p_value(p: float) -> str:
    """A p-value to two significant digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def counted(number: int, one: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def enumerate_names(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; beyond `most` names, the first ones and how many more. Names with commas part at semicolons."""
    comma = "; " if any(", " in name for name in names[:most]) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    last = f"{comma.strip() if comma == '; ' else ''} and "
    return last.join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def finite_or_none(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None
