"""The statistics of a grid."""

from __future__ import annotations

from collections.abc import Mapping

from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import (
    Aggregates,
    Analysis,
    Band,
    CheckpointGap,
    Comparison,
    Comparisons,
    Estimate,
    Matrix,
    Profiles,
    ReferenceAverage,
    ReferenceRow,
    References,
    RuleAnalysis,
    ScoreCurve,
    TaskScores,
)
from dqlab.analysis.statistics.bootstrap import Bootstrap
from dqlab.analysis.statistics.cautions import cautions_of
from dqlab.analysis.statistics.comparisons import ENOUGH, compare_with_base
from dqlab.analysis.statistics.tables import (
    Runs,
    ScoreKey,
    aggregates_of,
    checkpoint_gaps,
    complete_scores,
    matrices_of,
    per_task,
    profiles_of,
    references_of,
    runs_of,
    score_curves,
)
from dqlab.tracking.selection_rules import SELECTION_RULES


def by_rule(
    results: GridResults, runs: Mapping[str, Runs], matrices: Mapping[ScoreKey, Matrix], bootstrap: Bootstrap
) -> dict[str, RuleAnalysis]:
    """Matrices, aggregates, tables, comparisons and profiles, by the rule's name."""
    rules, scores = tuple(runs), complete_scores(matrices)
    aggregates = aggregates_of(scores, bootstrap)
    rows = per_task(results, runs, bootstrap)
    comparisons = compare_with_base(matrices, results.base, rules, bootstrap)
    profiles = profiles_of(scores, rules, bootstrap)
    return {
        rule: RuleAnalysis(
            rule,
            {of.label: matrix for of, matrix in matrices.items() if of.rule == rule},
            {of.label: figures for of, figures in aggregates.items() if of.rule == rule},
            rows[rule],
            comparisons[rule],
            profiles[rule],
        )
        for rule in rules
    }


__all__ = [
    "Aggregates",
    "Analysis",
    "Band",
    "CheckpointGap",
    "Comparison",
    "Comparisons",
    "Estimate",
    "Matrix",
    "Profiles",
    "ReferenceAverage",
    "ReferenceRow",
    "References",
    "RuleAnalysis",
    "ScoreCurve",
    "TaskScores",
    "analyse",
]


def analyse(results: GridResults, settings: Report) -> Analysis:
    """The statistics of a grid as far as it has come, by every selection rule.

    Intervals are percentile intervals of rliable's stratified bootstrap with `settings.reps` repetitions, from the same
    draws every time: equal results have equal intervals. numpy's global generator is left as it was.
    """
    bootstrap = Bootstrap(settings.reps, settings.confidence)
    runs = {rule: runs_of(results, rule) for rule in SELECTION_RULES}
    matrices = matrices_of(runs)
    rules = by_rule(results, runs, matrices, bootstrap)
    return Analysis(
        results.name,
        results.base,
        results.labels,
        results.tasks,
        results.seeds,
        rules,
        *score_curves(results, bootstrap),
        checkpoint_gaps(matrices, results.labels, bootstrap),
        references_of(rules, settings),
        cautions_of(results, settings, rules),
        ENOUGH,
        settings.reps,
        settings.confidence,
    )
