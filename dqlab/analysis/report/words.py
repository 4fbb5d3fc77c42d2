"""How a report says things: selection rules, numbers, intervals, lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dqlab.analysis.results import GridResults
from dqlab.analysis.statistics.analysis import Analysis, Comparison, Estimate
from dqlab.tracking.selection_rules import rule_name

MINUS = "\u2212"


def format_points(value: float, signed: bool = False) -> str:
    """A score or a difference of scores, one decimal, with a real minus."""
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return typographic_minus("0.0" if float(text) == 0 else text)


def typographic_minus(text: str) -> str:
    """A number with the typographic minus instead of the hyphen."""
    return text.replace("-", MINUS)


def format_interval(estimate: Estimate, signed: bool = False) -> str:
    """`[low, high]`, or nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{format_points(estimate.low, signed)}, {format_points(estimate.high, signed)}]"


def p_value(p: float) -> str:
    """A p-value to two significant digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def format_probability(estimate: Estimate) -> tuple[str, str]:
    """A probability and its interval, two decimals."""
    low, high = estimate.low, estimate.high
    return f"{estimate.point:.2f}", "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def enumerate_names(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; beyond `most` names, the first ones and how many more. Names with commas part at semicolons."""
    comma = "; " if any(", " in name for name in names[:most]) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    last = f"{comma.strip() if comma == '; ' else ''} and "
    return last.join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, unit = next((each for each in units if seconds >= 2 * each[0]), units[-1])
    return f"{seconds / size:.1f} {unit}"


def summary_paragraph(results: GridResults, analysis: Analysis, rules: Sequence[str]) -> str:
    """What the grid compares, how far it is, and what is decided, as one paragraph."""
    parts = [_compared(analysis), _progress(results), *_decided(analysis, rules), _optimism(analysis)]
    return " ".join(filter(None, [*parts, f"All scores: {results.caveat}." if results.caveat else ""]))


def _compared(analysis: Analysis) -> str:
    settings = f"{counted(len(analysis.labels), 'setting')} ({enumerate_names(analysis.labels)})"
    tasks = f"{counted(len(analysis.tasks), 'task')} ({enumerate_names(analysis.tasks)})"
    return f"This grid compares {settings} on {tasks} with {counted(len(analysis.seeds), 'seed')} each."


def _progress(results: GridResults) -> str:
    done, failed, open_ = len(results.results), len(results.failures), len(results.pending)
    total = counted(done + failed + open_, "run")
    if not failed and not open_:
        return f"All {total} have finished."
    others = [f"{failed:,} failed"] * bool(failed) + [
        f"{open_:,} {'is' if open_ == 1 else 'are'} still to come"
    ] * bool(open_)
    return f"Of {total}, {done:,} finished, {' and '.join(others)}."


def _decided(analysis: Analysis, rules: Sequence[str]) -> Iterator[str]:
    """The best setting and the verdicts by the first rule, then whether the other rules agree."""
    first, *others = rules
    found = analysis.rules[first]
    if not found.aggregates:
        yield "No setting has a seed that finished on every task: there is nothing to compare yet."
        return
    best = max(found.aggregates, key=lambda label: found.aggregates[label].iqm.point)
    iqm = found.aggregates[best].iqm
    yield f"By selection rule {rule_name(first)}, {best} has the highest interquartile mean (IQM), " + (
        f"{format_points(iqm.point)} {format_interval(iqm)}.".replace(" .", ".")
    )
    if found.comparisons.rows:
        yield _verdicts(analysis, first)
        yield from _agreement(analysis, first, others)


def _verdicts(analysis: Analysis, rule: str) -> str:
    comparisons = analysis.rules[rule].comparisons
    said = {verdict: _of(analysis, rule, verdict) for verdict in ("better", "worse", "undecided")}
    clauses = [f"{enumerate_names([_evidence(row) for row in said[v]], 4)} {_is(said[v])} {v}" for v in said if said[v]]
    few = max(row.seeds for row in comparisons.rows.values()) < analysis.enough
    reason = f" (no test decides below {counted(analysis.enough, 'seed')}, however large the difference)" if few else ""
    return f"Against the base, {comparisons.base}: {'; '.join(clauses)}{reason}."


def _of(analysis: Analysis, rule: str, verdict: str) -> list[Comparison]:
    """Comparisons with that verdict, the largest difference first."""
    rows = [row for row in analysis.rules[rule].comparisons.rows.values() if row.verdict == verdict]
    return sorted(rows, key=lambda row: -abs(row.iqm_difference.point))


def _evidence(row: Comparison) -> str:
    around = format_interval(row.iqm_difference, signed=True)
    difference = f"{format_points(row.iqm_difference.point, signed=True)} IQM points{f' {around}' if around else ''}"
    p = p_value(row.corrected)
    return f"{row.label} ({difference}, corrected p {p if p.startswith('<') else f'= {p}'})"


def _is(rows: Sequence[Comparison]) -> str:
    return "is" if len(rows) == 1 else "are"


def _agreement(analysis: Analysis, first: str, others: Sequence[str]) -> Iterator[str]:
    """Which of the other rules give other verdicts."""
    verdicts = {
        rule: {label: row.verdict for label, row in analysis.rules[rule].comparisons.rows.items()}
        for rule in (first, *others)
    }
    same = [rule_name(rule) for rule in others if verdicts[rule] == verdicts[first]]
    if same:
        yield f"By {enumerate_names(same)} the verdicts are the same."
    for rule in others:
        changed = [f"{label} {new}" for label, new in verdicts[rule].items() if verdicts[first].get(label) != new]
        if changed:
            yield f"By {rule_name(rule)} they differ: {enumerate_names(changed)}."


def _optimism(analysis: Analysis) -> str:
    """How much higher best-online scores are than those of the last checkpoint, in a sentence."""
    gaps = [gap.over_last.point for gap in analysis.gaps if gap.cells]
    if not gaps:
        return ""
    low, high = format_points(min(gaps)), format_points(max(gaps))
    worth = f"{low} points" if low == high else f"{low} to {high} points"
    return f"Choosing each run's best checkpoint online is worth {worth} over the last one."
