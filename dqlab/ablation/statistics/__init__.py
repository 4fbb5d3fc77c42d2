"""Honest statistics of a grid: intervals by rliable's bootstrap, corrected comparisons, and what must be said beside them."""

from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.analysis import (
    Aggregates,
    Analysis,
    Band,
    CheckpointGap,
    Comparison,
    Comparisons,
    Curve,
    Estimate,
    Matrix,
    Profiles,
    ReferenceAverage,
    ReferenceRow,
    References,
    RuleAnalysis,
    TaskScores,
)

__all__ = [
    "Aggregates",
    "Analysis",
    "Band",
    "CheckpointGap",
    "Comparison",
    "Comparisons",
    "Curve",
    "Estimate",
    "Matrix",
    "Profiles",
    "ReferenceAverage",
    "ReferenceRow",
    "References",
    "RuleAnalysis",
    "TaskScores",
    "analyse",
]


def analyse(results: GridResults, settings: Report) -> Analysis:
    """The statistics of a grid as far as it has come, by every selection rule."""
    raise NotImplementedError
