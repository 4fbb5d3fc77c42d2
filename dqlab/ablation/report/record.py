"""A report as JSON: the analysis, every cell, the grid and its facts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import RULES, Failure, GridResults, Result
from dqlab.ablation.statistics.analysis import Analysis


def record(results: GridResults, analysis: Analysis, settings: Report) -> str:
    """A JSON object: `grid`, `settings`, `caveat`, `facts`, `cells`, `analysis`; null for what is not finite."""
    grid = {name: getattr(results, name) for name in ("name", "base", "labels", "axes", "tasks", "seeds", "gin")}
    facts = {"caveat": results.caveat, "facts": results.facts, "settings": asdict(settings)}
    known = {"grid": grid, **facts, "cells": cells(results), "analysis": analysis.as_dict()}
    return json.dumps(_plain(known), indent=1, allow_nan=False) + "\n"


def cells(results: GridResults) -> list[dict[str, Any]]:
    """Every cell of the grid: finished ones with scores and evaluations, then failures, then what is pending."""
    return [
        *(_finished(result) for result in results.results),
        *(_failed(failure) for failure in results.failures),
        *({**cell.as_dict(), "state": "pending", "reason": ""} for cell in results.pending),
    ]


def _finished(result: Result) -> dict[str, Any]:
    scores = {rule: result.score(rule) for rule in RULES}
    kept = {name: result.summary.get(name) for name in ("algorithm", "caveat", "selection", "evaluations")}
    return {**result.cell.as_dict(), "state": "finished", "reason": "", "scores": scores, **kept}


def _failed(failure: Failure) -> dict[str, Any]:
    return {**failure.cell.as_dict(), "state": failure.kind, "reason": failure.reason}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)
