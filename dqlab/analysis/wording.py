"""How results are said: numbers, intervals, lists."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def enumerate_names(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; beyond `most` names, the first ones and how many more. Names with commas part at semicolons."""
    comma = "; " if any(", " in name for name in names[:most]) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    last = f"{comma.strip() if comma == '; ' else ''} and "
    return last.join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"
