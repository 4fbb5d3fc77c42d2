"""From finished runs to statistics, a report, a comparison; without gin and without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqlab.analysis.compare.tables import run_compare
    from dqlab.analysis.report.write import write_report
    from dqlab.analysis.statistics import analyse

__all__ = ["analyse", "run_compare", "write_report"]
PLACES = {"analyse": "statistics", "write_report": "report.write", "run_compare": "compare.tables"}
"""Imported when they are asked for: statistics need scipy, reports rich."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
