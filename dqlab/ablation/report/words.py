"""How a report says things: selection rules, numbers, intervals, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dqlab.ablation.statistics.analysis import Estimate

MINUS = "\u2212"

RULE_NAMES: Mapping[str, str] = {
    "last": "last",
    "offline": "offline",
    "best_online": "best-online",
    "mean_last_10": "mean of last 10",
}
RULE_MEANINGS: Mapping[str, str] = {
    "last": "the checkpoint after the last update",
    "offline": "the checkpoint that the offline selection loss chooses; the environment is not asked",
    "best_online": "the checkpoint that scored best in the environment: optimistic, and not offline",
    "mean_last_10": "the mean of the last ten evaluations; no single checkpoint",
}


def rule_name(rule: str) -> str:
    """A selection rule as a reader meets it."""
    return RULE_NAMES.get(rule, rule)


def points(value: float, signed: bool = False) -> str:
    """A score or a difference of scores, one decimal, with a real minus."""
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return minus("0.0" if float(text) == 0 else text)


def minus(text: str) -> str:
    """A number with the typographic minus instead of the hyphen."""
    return text.replace("-", MINUS)


def interval(estimate: Estimate, signed: bool = False) -> str:
    """`[low, high]`, or nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{points(estimate.low, signed)}, {points(estimate.high, signed)}]"


def p_value(p: float) -> str:
    """A p-value to two significant digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def share(estimate: Estimate) -> tuple[str, str]:
    """A probability and its interval, two decimals."""
    low, high = estimate.low, estimate.high
    return f"{estimate.point:.2f}", "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def count(number: int, one: str, many: str = "") -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; beyond `most` names, the first ones and how many more. Names with commas part at semicolons."""
    comma = "; " if any(", " in name for name in names[:most]) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    last = f"{comma.strip() if comma == '; ' else ''} and "
    return last.join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, unit = next((each for each in units if seconds >= 2 * each[0]), units[-1])
    return f"{seconds / size:.1f} {unit}"
