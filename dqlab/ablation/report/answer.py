"""The answer of a report: what was compared, on what, and what of it is decided, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dqlab.ablation.report.words import count, interval, listed, p_value, points, rule_name
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import Analysis, Comparison


def answer(results: GridResults, analysis: Analysis, rules: Sequence[str]) -> str:
    """A paragraph."""
    parts = [_compared(analysis), _progress(results), *_decided(analysis, rules), _optimism(analysis)]
    return " ".join(filter(None, [*parts, f"All scores: {results.caveat}." if results.caveat else ""]))


def _compared(analysis: Analysis) -> str:
    settings = f"{count(len(analysis.labels), 'setting')} ({listed(analysis.labels)})"
    tasks = f"{count(len(analysis.tasks), 'task')} ({listed(analysis.tasks)})"
    return f"This grid compares {settings} on {tasks} with {count(len(analysis.seeds), 'seed')} each."


def _progress(results: GridResults) -> str:
    done, failed, open_ = len(results.results), len(results.failures), len(results.pending)
    total = count(done + failed + open_, "run")
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
        f"{points(iqm.point)} {interval(iqm)}.".replace(" .", ".")
    )
    if found.comparisons.rows:
        yield _verdicts(analysis, first)
        yield from _agreement(analysis, first, others)


def _verdicts(analysis: Analysis, rule: str) -> str:
    comparisons = analysis.rules[rule].comparisons
    said = {verdict: _of(analysis, rule, verdict) for verdict in ("better", "worse", "undecided")}
    clauses = [f"{listed([_evidence(row) for row in said[v]], 4)} {_is(said[v])} {v}" for v in said if said[v]]
    few = max(row.seeds for row in comparisons.rows.values()) < analysis.enough
    reason = f" (no test decides below {count(analysis.enough, 'seed')}, however large the difference)" if few else ""
    return f"Against the base, {comparisons.base}: {'; '.join(clauses)}{reason}."


def _of(analysis: Analysis, rule: str, verdict: str) -> list[Comparison]:
    """Comparisons with that verdict, the largest difference first."""
    rows = [row for row in analysis.rules[rule].comparisons.rows.values() if row.verdict == verdict]
    return sorted(rows, key=lambda row: -abs(row.iqm_difference.point))


def _evidence(row: Comparison) -> str:
    around = interval(row.iqm_difference, signed=True)
    difference = f"{points(row.iqm_difference.point, signed=True)} IQM points{f' {around}' if around else ''}"
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
        yield f"By {listed(same)} the verdicts are the same."
    for rule in others:
        changed = [f"{label} {new}" for label, new in verdicts[rule].items() if verdicts[first].get(label) != new]
        if changed:
            yield f"By {rule_name(rule)} they differ: {listed(changed)}."


def _optimism(analysis: Analysis) -> str:
    """What best-online flatters."""
    gaps = [gap.over_last.point for gap in analysis.gaps if gap.cells]
    if not gaps:
        return ""
    low, high = points(min(gaps)), points(max(gaps))
    worth = f"{low} points" if low == high else f"{low} to {high} points"
    return f"Choosing each run's best checkpoint online is worth {worth} over the last one."
