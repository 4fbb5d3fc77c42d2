"""All figures that depend on the selection rule, of all rules at once."""

from __future__ import annotations

from collections.abc import Mapping

from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics.aggregates import aggregates_of
from dqlab.ablation.statistics.analysis import Matrix, RuleAnalysis
from dqlab.ablation.statistics.improvement import compared
from dqlab.ablation.statistics.matrices import Of, Runs, complete
from dqlab.ablation.statistics.per_task import per_task
from dqlab.ablation.statistics.profiles import profiles_of
from dqlab.ablation.statistics.resampling import Bootstrap


def by_rule(
    results: GridResults, runs: Mapping[str, Runs], matrices: Mapping[Of, Matrix], bootstrap: Bootstrap
) -> dict[str, RuleAnalysis]:
    """Matrices, aggregates, tables, comparisons and profiles, by the rule's name."""
    rules, scores = tuple(runs), complete(matrices)
    aggregates = aggregates_of(scores, bootstrap)
    rows = per_task(results, runs, bootstrap)
    comparisons = compared(matrices, results.base, rules, bootstrap)
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
