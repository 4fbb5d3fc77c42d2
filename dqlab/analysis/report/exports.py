"""A report's figures for programs: tables as CSV, results.json, tables.tex."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from dqlab.analysis.cautions import CORRECTION, ENOUGH
from dqlab.analysis.report.tables import (
    ReportTable,
    TableValue,
    aggregate_table,
    common_table,
    comparison_table,
    gap_table,
    order_table,
    reference_table,
    swap_table,
    task_table,
)
from dqlab.analysis.results import FINISHED, CellStatus, GridResults
from dqlab.analysis.statistics import ALL_TASKS, BOUNDS, COMPARED, METRICS, TEST, Analysis
from dqlab.tracking.selection_rules import SELECTION_RULES

FRAMES = (
    *("scores", "task_scores", "estimates", "comparisons", "curves", "profiles", "references", "reference_means"),
    *("gains", "orders", "swaps", "tuning"),
)


def results_json(analysis: Analysis) -> str:
    """A JSON object: `grid`, `settings`, `caveat`, `facts`, `cells`, `analysis`; null for what is not finite.

    `analysis` has the statistics as `Analysis` has them: `pandas.DataFrame(**known["analysis"]["estimates"])`.
    """
    results = analysis.results
    known = {
        "grid": {name: getattr(results, name) for name in ("name", "base", "labels", "axes", "tasks", "seeds", "gin")},
        "caveat": results.caveat,
        "facts": results.facts,
        "settings": asdict(analysis.settings),
        "cells": all_cells(results),
        "analysis": {name: _frame(getattr(analysis, name)) for name in FRAMES}
        | {"cautions": analysis.cautions, "correction": CORRECTION, "test": TEST, "enough": ENOUGH},
    }
    return json.dumps(_plain(known), indent=1, allow_nan=False) + "\n"


def _frame(frame: pd.DataFrame) -> dict[str, Any]:
    """`columns` and `data`, what it is indexed by among them."""
    named = frame.reset_index() if frame.index.names != [None] else frame
    split: dict[str, Any] = named.to_dict("split", index=False)
    return split


def all_cells(results: GridResults) -> list[dict[str, Any]]:
    """Every cell of the grid: finished ones with scores and evaluations, then failures, then what is pending."""
    states = [(each, FINISHED) for each in results.results] + [(each, each.failure) for each in results.failures]
    return [
        {**each.cell.as_dict(), "state": state, "reason": each.reason, **_outcome(each)}
        for each, state in [*states, *((each, "pending") for each in results.pending)]
    ]


def _outcome(status: CellStatus) -> dict[str, Any]:
    """Scores and evaluations of a finished cell; nothing of any other."""
    if status.state != FINISHED:
        return {}
    kept = {name: status.summary.get(name) for name in ("algorithm", "caveat", "selection", "evaluations")}
    return {"scores": {rule: status.score(rule) for rule in SELECTION_RULES}, **kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


SCORES = tuple(f"score_{rule}" for rule in SELECTION_RULES)
LAST = ("steps", "state", "reason", "caveat", "id")
RESERVED = frozenset({"label", "task", "seed", *SCORES, *LAST})


def scores_csv(results: GridResults) -> str:
    """A row a cell: label, place on each axis, task, seed, the score by each rule, steps, state, reason, caveat, id."""
    axes = {axis: f"{axis}_axis" if axis in RESERVED else axis for axis in results.axes}
    order = {label: place for place, label in enumerate(results.labels)}
    tasks = {task: place for place, task in enumerate(results.tasks)}
    cells = sorted(all_cells(results), key=lambda cell: (order[cell["label"]], tasks[cell["task"]], cell["seed"]))
    rows = [
        {
            **{name: cell.get(name, "") for name in ("label", "task", "seed", "state", "reason", "caveat", "id")},
            **{column: cell["points"].get(axis, "") for axis, column in axes.items()},
            **{f"score_{rule}": cell.get("scores", {}).get(rule, "") for rule in SELECTION_RULES},
            "steps": (cell.get("evaluations") or [{}])[-1].get("step", ""),
        }
        for cell in cells
    ]
    columns = ["label", *axes.values(), "task", "seed", *SCORES, *LAST]
    sheet: str = pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, na_rep="nan")
    return sheet


def aggregates_csv(analysis: Analysis) -> str:
    """A row a rule and setting: aggregates with intervals, and the comparison with the base."""
    results, known = analysis.results, analysis.estimates
    keys = pd.MultiIndex.from_product([SELECTION_RULES, results.labels], names=["rule", "label"])
    wide = (
        known[known.task == ALL_TASKS].pivot(index=["rule", "setting"], columns="metric", values=BOUNDS).reindex(keys)
    )
    figures = {
        metric + end: wide.get((bound, metric))
        for metric in (*METRICS, *COMPARED)
        for bound, end in zip(BOUNDS, ("", "_low", "_high"), strict=True)
    }
    complete = analysis.scores.notna().all(axis=1).groupby(level=["rule", "setting"]).sum().reindex(keys, fill_value=0)
    tests = analysis.comparisons.set_index(["rule", "setting"]).reindex(keys)
    sheet = pd.DataFrame({"tasks": len(results.tasks), "complete_seeds": complete, **figures}, index=keys)
    sheet = sheet.join(tests[["p", "corrected", "smallest_p", "verdict"]])
    facts = {"base": results.base, "confidence": analysis.settings.confidence, "caveat": results.caveat}
    text: str = sheet.assign(**facts).reset_index().to_csv(index=False)
    return text


def frame_csv(analysis: Analysis, name: str) -> str:
    """One of FRAMES without an index of its own, with what must be known of its figures."""
    facts = {"confidence": analysis.settings.confidence, "caveat": analysis.results.caveat}
    text: str = getattr(analysis, name).assign(**facts).to_csv(index=False)
    return text


HEAD = r"""% Written by dqlab from the grid '{name}'. Wants \usepackage{{booktabs}}; then \input{{tables.tex}}.
% Every score stands with its selection rule{caveat}.
"""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u00d7": r"$\times$",
    "…": r"\ldots{}",
}
HEADS_LEFT_OUT = ("mean difference", "least p")
"""Of comparisons: what a paper's width has no room for."""


def latex_tables(analysis: Analysis) -> str:
    r"""Tables of aggregates, gaps, orders, tasks, comparisons by each of the rules, and published scores: booktabs."""
    results = analysis.results
    head = HEAD.format(name=_one_line(results.name), caveat=f" and is {results.caveat}" if results.caveat else "")
    return head + "\n".join(latex_table(table) for table in _tables(analysis))


def _tables(analysis: Analysis) -> Iterator[ReportTable]:
    rules = analysis.settings.rules
    for metric in ("iqm", "mean"):
        yield aggregate_table(analysis, rules, (metric,))
    yield gap_table(analysis)
    yield common_table(analysis)
    if len(analysis.results.labels) > 1:
        yield order_table(analysis)
        yield swap_table(analysis)
    for rule in rules:
        yield task_table(analysis, rule)
        if len(analysis.results.labels) > 1:
            yield comparison_table(analysis, rule).without(HEADS_LEFT_OUT)
    if analysis.settings.reference:
        yield reference_table(analysis)


def latex_table(table: ReportTable) -> str:
    """A booktabs table."""
    heads = [
        (escape_latex(column.head), rf"{{\footnotesize {escape_latex(column.under)}}}" if column.under else "")
        for column in table.columns
    ]
    if not any(under for _, under in heads):
        heads = [head for head, _ in heads]  # type: ignore[misc]
    rows = [[_value(value, row[0].text == table.strong) for value in row] for row in table.rows]
    base = " The base's name is in bold." if table.strong else ""
    style = pd.DataFrame(rows, columns=pd.Index(heads), dtype=object).style.hide(axis="index")
    text: str = style.set_table_styles(
        [{"selector": "small", "props": ":;"}, {"selector": "setlength", "props": r":{\tabcolsep}{4pt};"}]
    ).to_latex(
        column_format="".join("l" if place == 0 or c.is_text else "r" for place, c in enumerate(table.columns)),
        position="t",
        position_float="centering",
        hrules=True,
        caption=escape_latex(table.caption + base),
        label=f"tab:{table.name.replace('_', '-')}",
        sparse_columns=False,
    )
    return text


def _value(value: TableValue, strong: bool) -> str:
    detail = rf" {{\scriptsize {escape_latex(value.detail)}}}" if value.detail else ""
    text = escape_latex(value.text) + detail
    return rf"\textbf{{{text}}}" if strong and value.number is None and not detail else text


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it literally; letters that pdfLaTeX does not have are left as they are, for LuaLaTeX."""
    escaped = "".join(SPECIAL.get(character, character) for character in _one_line(text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
