"""What `dqlab bench compare` prints: every benchmark's history, and what got worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dqlab.benchmarking import text
from dqlab.benchmarking.history import TOLERANCE, History
from dqlab.benchmarking.record import Record

SHOWN = 10


def compare(by_machine: Mapping[str, Sequence[History]]) -> int:
    """Print the histories of each kind of machine; returns how many benchmarks got worse."""
    for machine, histories in by_machine.items():
        print(f"\n{machine}")
        for history in histories:
            print("\n".join(["", *_lines(history)]))
    everything = [history for histories in by_machine.values() for history in histories]
    worse = sum(history.worse for history in everything)
    print(f"\n{worse} of {len(everything)} benchmarks got worse by more than {TOLERANCE:.0%}.")
    return worse


def _lines(history: History) -> Iterable[str]:
    """A benchmark's name and parameters, and its last measurements."""
    latest = history.latest
    yield f"{latest.name}  {text.pairs(latest.parameters)}".rstrip()
    hidden = len(history.records) - SHOWN
    if hidden > 0:
        yield f"  ({hidden} earlier)"
    table = text.aligned([_row(record) for record in history.records[-SHOWN:]])
    yield from (f"  {line}" for line in table[:-1])
    yield f"  {table[-1]}{_verdict(history)}"


def _row(record: Record) -> list[str]:
    when = record.when.astimezone().strftime("%Y-%m-%d %H:%M")
    return [when, record.commit, text.seconds(record.median), text.times(record.ratio)]


def _verdict(history: History) -> str:
    if not history.worse or history.best_before is None:
        return ""
    return f"  WORSE: {history.loss:.0%} below the best, {text.times(history.best_before)}"
