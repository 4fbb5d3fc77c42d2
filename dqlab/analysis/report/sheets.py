"""A report's figures as CSV: a row a cell, and a row a selection rule and setting."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dqlab.analysis.report.tables import METRICS
from dqlab.analysis.results import CellStatus, GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import Aggregates, Analysis, Comparison, Estimate
from dqlab.tracking.selection_rules import SELECTION_RULES


def results_as_json(results: GridResults, analysis: Analysis, settings: Report) -> str:
    """A JSON object: `grid`, `settings`, `caveat`, `facts`, `cells`, `analysis`; null for what is not finite."""
    grid = {name: getattr(results, name) for name in ("name", "base", "labels", "axes", "tasks", "seeds", "gin")}
    facts = {"caveat": results.caveat, "facts": results.facts, "settings": asdict(settings)}
    known = {"grid": grid, **facts, "cells": all_cells(results), "analysis": analysis.as_dict()}
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


SCORES = tuple(f"score_{rule}" for rule in SELECTION_RULES)
LAST = ("steps", "state", "reason", "caveat", "id")
RESERVED = frozenset({"label", "task", "seed", *SCORES, *LAST})


def scores_sheet(results: GridResults) -> str:
    """A row a cell: label, place on each axis, task, seed, the score by each rule, steps, state, reason, caveat, id."""
    axes = {axis: f"{axis}_axis" if axis in RESERVED else axis for axis in results.axes}
    columns = ("label", *axes.values(), "task", "seed", *SCORES, *LAST)
    order = {label: place for place, label in enumerate(results.labels)}
    tasks = {task: place for place, task in enumerate(results.tasks)}
    rows = sorted(all_cells(results), key=lambda cell: (order[cell["label"]], tasks[cell["task"]], cell["seed"]))
    return _sheet(columns, [_row(cell, axes) for cell in rows])


def _row(cell: Mapping[str, Any], axes: Mapping[str, str]) -> dict[str, Any]:
    scores = cell.get("scores", {})
    evaluations = cell.get("evaluations") or [{}]
    points = {column: cell["points"].get(axis, "") for axis, column in axes.items()}
    known = {name: cell.get(name, "") for name in ("label", "task", "seed", "state", "reason", "caveat", "id")}
    return {
        **points,
        **known,
        **{f"score_{rule}": scores.get(rule, "") for rule in SELECTION_RULES},
        "steps": evaluations[-1].get("step", ""),
    }


def aggregates_sheet(results: GridResults, analysis: Analysis) -> str:
    """A row a rule and setting: aggregates with intervals, and the comparison with the base."""
    rows = [_aggregates(analysis, rule, label, results.caveat) for rule in analysis.rules for label in analysis.labels]
    return _sheet(list(rows[0]), rows)


def _aggregates(analysis: Analysis, rule: str, label: str, caveat: str) -> dict[str, Any]:
    found = analysis.rules[rule]
    matrix = found.matrices.get(label)
    return {
        "rule": rule,
        "label": label,
        "tasks": len(analysis.tasks),
        "complete_seeds": len(matrix.seeds) if matrix else 0,
        **_metrics(found.aggregates.get(label)),
        **_comparison(found.comparisons.rows.get(label)),
        "base": analysis.base,
        "confidence": analysis.confidence,
        "caveat": caveat,
    }


def _metrics(found: Aggregates | None) -> dict[str, Any]:
    estimates = {name: getattr(found, name, None) for name in METRICS}
    return {key: value for name, estimate in estimates.items() for key, value in _estimate(name, estimate).items()}


def _comparison(row: Comparison | None) -> dict[str, Any]:
    estimated = ("probability", "iqm_difference", "mean_difference")
    estimates = [_estimate(name, getattr(row, name, None)) for name in estimated]
    plain = {name: getattr(row, name, "") for name in ("p", "corrected", "smallest_p", "verdict")}
    return {**{key: value for each in estimates for key, value in each.items()}, **plain}


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    parts = {name: "point", f"{name}_low": "low", f"{name}_high": "high"}
    return {key: getattr(estimate, part, None) for key, part in parts.items()}


def _sheet(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text: what is not there is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
