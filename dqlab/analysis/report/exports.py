"""A report's figures for programs: scores.csv, aggregates.csv, results.json, tables.tex."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

import pandas as pd

from dqlab.analysis.cautions import CORRECTION, ENOUGH
from dqlab.analysis.report.tables import (
    ReportTable,
    TableValue,
    aggregate_table,
    comparison_table,
    gap_table,
    reference_table,
    task_table,
)
from dqlab.analysis.results import CellStatus, GridResults
from dqlab.analysis.statistics import ALL_TASKS, BOUNDS, COMPARED, GAPS, METRICS, TEST, Analysis
from dqlab.tracking.selection_rules import SELECTION_RULES


def results_json(analysis: Analysis) -> str:
    """A JSON object: `grid`, `settings`, `caveat`, `facts`, `cells`, `analysis`; null for what is not finite."""
    results = analysis.results
    grid = {name: getattr(results, name) for name in ("name", "base", "labels", "axes", "tasks", "seeds", "gin")}
    facts = {"caveat": results.caveat, "facts": results.facts, "settings": asdict(analysis.settings)}
    known = {"grid": grid, **facts, "cells": all_cells(results), "analysis": analysis_json(analysis)}
    return json.dumps(_plain(known), indent=1, allow_nan=False) + "\n"


def all_cells(results: GridResults) -> list[dict[str, Any]]:
    """Every cell of the grid: finished ones with scores and evaluations, then failures, then what is pending."""
    return [
        *(_finished(result) for result in results.results),
        *(_without_result(status, status.failure) for status in results.failures),
        *(_without_result(status, "pending") for status in results.pending),
    ]


def _finished(result: CellStatus) -> dict[str, Any]:
    scores = {rule: result.score(rule) for rule in SELECTION_RULES}
    kept = {name: result.summary.get(name) for name in ("algorithm", "caveat", "selection", "evaluations")}
    return {**result.cell.as_dict(), "state": "finished", "reason": "", "scores": scores, **kept}


def _without_result(status: CellStatus, state: str) -> dict[str, Any]:
    return {**status.cell.as_dict(), "state": state, "reason": status.reason}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """The statistics as nested dicts, by rule, setting and figure."""
    results, settings = analysis.results, analysis.settings
    return {
        **{name: getattr(results, name) for name in ("name", "base", "labels", "tasks", "seeds")},
        "rules": {rule: {"rule": rule, **_of_rule(analysis, rule)} for rule in SELECTION_RULES},
        "curves": _curves(analysis.curves[analysis.curves.task != ALL_TASKS]),
        "total_curves": _curves(analysis.curves[analysis.curves.task == ALL_TASKS]),
        "gaps": _gaps(analysis),
        "references": _references(analysis),
        "cautions": analysis.cautions,
        "enough": ENOUGH,
        "reps": settings.reps,
        "confidence": settings.confidence,
    }


def _of_rule(analysis: Analysis, rule: str) -> dict[str, Any]:
    means = {task: _bounds(analysis.figure(rule, "mean", task)) for task in analysis.results.tasks}
    matrices = _matrices(analysis, rule)
    return {
        "matrices": matrices,
        "aggregates": _figures(analysis, rule, METRICS),
        "per_task": [
            {"label": label, "task": task, "mean": means[task].get(label), **row}
            for (label, task), row in _task_rows(analysis, rule).items()
        ],
        "comparisons": _comparisons(analysis, rule),
        "profiles": _profiles(analysis.profiles[analysis.profiles.rule == rule]),
    }


def _bounds(found: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Setting -> point, low and high."""
    return {row.Index: {"point": row.point, "low": row.low, "high": row.high} for row in found.itertuples()}


def _figures(analysis: Analysis, rule: str, metrics: Any) -> dict[str, dict[str, Any]]:
    """Setting -> metric -> point, low and high."""
    found = {metric: _bounds(analysis.figure(rule, metric)) for metric in metrics}
    settings = next(iter(found.values()))
    return {setting: {metric: found[metric][setting] for metric in metrics} for setting in settings}


def _matrices(analysis: Analysis, rule: str) -> dict[str, Any]:
    """Setting -> complete seeds, their scores (a row a seed, a column a task), and seeds that lack a task."""
    found: dict[str, dict[str, Any]] = {
        label: {"seeds": [], "scores": [], "left_out": []} for label in analysis.results.labels
    }
    own = analysis.scores[analysis.scores.index.get_level_values("rule") == rule]
    for (_, label, seed), *scores in own.itertuples():
        if any(map(math.isnan, scores)):
            found[label]["left_out"].append(seed)
        else:
            found[label]["seeds"].append(seed)
            found[label]["scores"].append(scores)
    return found


def _task_rows(analysis: Analysis, rule: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(setting, task) -> what is known of its runs."""
    results = analysis.results
    failed = Counter((status.cell.label, status.cell.task) for status in results.failures)
    pending = Counter((status.cell.label, status.cell.task) for status in results.pending)
    known = analysis.task_scores[analysis.task_scores.index.get_level_values("rule") == rule]
    runs = known.droplevel("rule").to_dict("index")
    nothing = {"scores": (), "std": None, "standard_error": None, "lowest": None, "highest": None, "seeds": ()}
    keys = [(label, task) for label in results.labels for task in results.tasks]
    return {key: {**runs.get(key, nothing), "failed": failed[key], "pending": pending[key]} for key in keys}


def _comparisons(analysis: Analysis, rule: str) -> dict[str, Any]:
    figures = _figures(analysis, rule, COMPARED)
    tests = analysis.compared(rule).drop(columns="rule").to_dict("index")
    rows = {label: {"label": label, **figures[label], **tests[label]} for label in tests}
    known = {"base": analysis.results.base, "rows": rows, "comparisons": len(rows)}
    return {**known, "correction": CORRECTION, "test": TEST}


def _profiles(found: pd.DataFrame) -> dict[str, Any]:
    shares = {label: band for (label,), _, band in _bands(found, ["setting"], "threshold")}
    return {"thresholds": found.threshold.unique().tolist(), "shares": shares}


def _curves(found: pd.DataFrame) -> list[dict[str, Any]]:
    curves: dict[tuple[str, str], dict[str, Any]] = {}
    for (label, task, seeds, metric), steps, band in _bands(found, ["setting", "task", "seeds", "metric"], "step"):
        curves.setdefault((label, task), {"label": label, "task": task, "steps": steps, "seeds": seeds})[metric] = band
    return list(curves.values())


def _bands(found: pd.DataFrame, by: list[str], along: str) -> Iterator[tuple[Any, list[Any], dict[str, list[float]]]]:
    """Of each group its key, the axis, and the estimates along it; no bounds where one seed alone allows none."""
    rows = found[[*by, along, *BOUNDS]].itertuples(index=False, name=None)
    for key, group in groupby(rows, key=lambda row: row[: len(by)]):
        axis, *estimates = list(zip(*group, strict=True))[len(by) :]
        band = {name: [] if math.isnan(row[0]) else list(row) for name, row in zip(BOUNDS, estimates, strict=True)}
        yield key, list(axis), band


def _gaps(analysis: Analysis) -> list[dict[str, Any]]:
    matrices = {rule: _matrices(analysis, rule) for rule in ("best_online", "last")}
    found = _figures(analysis, "best_online", GAPS)
    shared = {label: set.intersection(*(set(each[label]["seeds"]) for each in matrices.values())) for label in found}
    tasks = len(analysis.results.tasks)
    return [{"label": label, "cells": len(shared[label]) * tasks, **figures} for label, figures in found.items()]


def _references(analysis: Analysis) -> dict[str, Any] | None:
    settings = analysis.settings
    if not settings.reference:
        return None
    rows = [
        {
            "label": row.setting,
            "task": row.task,
            "ours": None if math.isnan(row.point) else {"point": row.point, "low": row.low, "high": row.high},
            **{name: getattr(row, name) for name in ("published", "error", "difference", "inside")},
        }
        for row in analysis.references.itertuples()
    ]
    averages = [
        {"label": row.Index, "tasks": row.tasks, "ours": row.point}
        | {"published": row.published, "difference": row.difference}
        for row in analysis.reference_means.itertuples()
    ]
    source = {"rule": settings.reference_rule, "source": settings.reference_source}
    return {**source, "rows": rows, "averages": averages}


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
GREEK = (
    "ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA LAMDA MU NU XI PI RHO SIGMA TAU UPSILON PHI CHI PSI OMEGA"
)
HEADS_LEFT_OUT = ("mean difference", "least p")
"""Of comparisons: what a paper's width has no room for."""


def latex_tables(analysis: Analysis) -> str:
    r"""Tables of aggregates, gaps, tasks and comparisons by each of the rules, and the published scores: booktabs."""
    results = analysis.results
    head = HEAD.format(name=_one_line(results.name), caveat=f" and is {results.caveat}" if results.caveat else "")
    return head + "\n".join(latex_table(table) for table in _tables(analysis))


def _tables(analysis: Analysis) -> Iterator[ReportTable]:
    rules = analysis.settings.rules
    for metric in ("iqm", "mean"):
        yield aggregate_table(analysis, rules, (metric,))
    yield gap_table(analysis)
    for rule in rules:
        yield task_table(analysis, rule).narrowed()
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
    """Text as LaTeX prints it literally, whatever characters it has."""
    escaped = "".join(SPECIAL.get(character) or _character(character) for character in _one_line(text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _character(character: str) -> str:
    """Western letters as they are, Greek ones as mathematics, others without accents, or as their code point."""
    if character.isprintable() and ord(character) < 0x100:
        return character
    greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(character, ""))
    if greek and greek[1] in GREEK.split():
        return rf"$\{greek[1].lower().replace('lamda', 'lambda')}$"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(each, each) for each in plain) or rf"(U+{ord(character):04X})"
