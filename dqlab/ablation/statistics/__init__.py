"""Honest statistics of a grid: intervals by rliable's bootstrap, corrected comparisons, cautions beside them."""

from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import RULES, GridResults
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
from dqlab.ablation.statistics.cautions import cautions
from dqlab.ablation.statistics.curves import curves
from dqlab.ablation.statistics.gaps import checkpoint_gaps
from dqlab.ablation.statistics.improvement import ENOUGH
from dqlab.ablation.statistics.matrices import matrices_of, runs_of
from dqlab.ablation.statistics.references import references_of
from dqlab.ablation.statistics.resampling import Bootstrap
from dqlab.ablation.statistics.rules import by_rule

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
    """The statistics of a grid as far as it has come, by every selection rule.

    Intervals are percentile intervals of rliable's stratified bootstrap with `settings.reps` repetitions, from the same
    draws every time: equal results have equal intervals. numpy's global generator is left as it was.
    """
    bootstrap = Bootstrap(settings.reps, settings.confidence)
    runs = {rule: runs_of(results, rule) for rule in RULES}
    matrices = matrices_of(runs)
    rules = by_rule(results, runs, matrices, bootstrap)
    return Analysis(
        results.name,
        results.base,
        results.labels,
        results.tasks,
        results.seeds,
        rules,
        *curves(results, bootstrap),
        checkpoint_gaps(matrices, results.labels, bootstrap),
        references_of(rules, settings),
        cautions(results, settings, rules),
        ENOUGH,
        settings.reps,
        settings.confidence,
    )
