"""The page on fidelity: tables of what was measured, then what is corrected in each family of environments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.resources import files

import numpy as np

from dqlab.fidelity.measures import Errors
from dqlab.fidelity.rows import MANY, NUDGE, ONE, Row, spread

STATES = (
    "environment",
    "stepped by",
    "one step: median",
    "maximum",
    f"{MANY} steps: median",
    "maximum",
    "reward, one step",
    "ends that differ",
)
RETURNS = ("environment", "stepped by", "episodes", "d4rl", "this", "paired difference", "largest")


def page(rows: Sequence[Row], runs: Sequence[str], copies: int, versions: str, command: str) -> str:
    """Markdown.

    Args:
        rows: what was measured.
        runs: a paragraph or table on each dqlab run that was evaluated in both.
        copies: roll-outs and episodes of each figure.
        versions: of what was stepped, in words.
        command: that made this page.
    """
    template = (files("dqlab.fidelity") / "page.md").read_text()
    return template.format(
        command=command,
        date=date.today().isoformat(),
        versions=versions,
        copies=copies,
        one=ONE,
        states=copies * ONE,
        many=MANY,
        nudge=f"{NUDGE:g}",
        errors=_table(STATES, [_errors(row) for row in rows if not row.missing]),
        returns=_table(RETURNS, [_returns(row) for row in rows if row.returns]),
        more="".join(f"{paragraph}\n\n" for paragraph in [*_missing(rows), *runs]),
        families=(files("dqlab.fidelity") / "families.md").read_text().rstrip(),
    )


def _missing(rows: Sequence[Row]) -> list[str]:
    return [f"Not measured: {row.environment}, {row.stepped_by}: {row.missing}" for row in rows if row.missing]


def _errors(row: Row) -> list[str]:
    one = row.one and [_short(np.median(row.one.state)), _short(row.one.state.max()), _short(row.one.reward.max())]
    differ = sum(errors.terminations for errors in (row.one, row.many) if errors)
    median, largest, reward = one or ["-"] * 3
    return [row.environment, row.stepped_by, median, largest, *_free(row.many), reward, str(differ) if one else "-"]


def _free(many: Errors | None) -> list[str]:
    return [_short(np.median(many.state)), _short(many.state.max())] if many else ["-", "-"]


def _returns(row: Row) -> list[str]:
    assert row.returns is not None
    theirs, ours = row.returns
    apart = ours - theirs
    largest = _short(np.abs(apart).max())
    return [row.environment, row.stepped_by, str(len(ours)), spread(theirs), spread(ours), spread(apart), largest]


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
