"""The statistics of a whole grid: what is missing, what is compared, what is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_grids import TASKS, made_grid, made_result

from dqlab.analysis.results import FAILED, CellStatus, GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import analyse
from dqlab.analysis.statistics.analysis import Analysis, Comparison
from dqlab.errors import ConfigError
from dqlab.tracking.selection_rules import SELECTION_RULES

SETTINGS = Report(reps=200)
WALKER, HOPPER = TASKS


def noisy(gain: Callable[[int], float]) -> Callable[[object, str, int], float]:
    """50 for the base, N=5, `gain(seed)` more for the others; seeds and tasks differ."""
    return lambda value, task, seed: 50 + seed + 20 * TASKS.index(task) + (0 if value == "5" else gain(seed))


def comparison(seeds: int, gain: Callable[[int], float]) -> Comparison:
    grid = made_grid((2, 5, 10), (WALKER,), seeds, noisy(gain))
    return analyse(grid, SETTINGS).rules["last"].comparisons.rows["N=2"]


def said(analysis: Analysis, words: str) -> bool:
    return any(words in sentence for sentence in analysis.cautions)


def without(grid: GridResults, wanted: Callable[[CellStatus], bool]) -> GridResults:
    """Its cells for which that holds are pending."""
    kept = tuple(result for result in grid.results if not wanted(result))
    return replace(
        grid, results=kept, pending=tuple(CellStatus(result.cell) for result in grid.results if wanted(result))
    )


@pytest.fixture(scope="module")
def whole() -> Analysis:
    return analyse(made_grid(), SETTINGS)


def test_every_rule_has_all_figures(whole: Analysis) -> None:
    assert set(whole.rules) == set(SELECTION_RULES)
    for name, offset in zip(SELECTION_RULES, (0, -1, 3, -2), strict=True):
        rule, last = whole.rules[name], whole.rules["last"]
        assert list(rule.aggregates) == list(rule.matrices) == list(rule.profiles.shares) == list(whole.labels)
        assert list(rule.comparisons.rows) == ["N=2", "N=10"]
        for label in whole.labels:
            assert rule.aggregates[label].mean.point == pytest.approx(last.aggregates[label].mean.point + offset)


def test_per_task_by_hand() -> None:
    scores = (10.0, 20.0, 60.0)
    row = analyse(made_grid((5,), (WALKER,), 3, lambda *cell: scores[int(cell[2])]), SETTINGS).rules["last"].per_task[0]
    assert row.mean is not None
    assert (row.mean.point, row.lowest, row.highest, row.scores) == (30.0, 10.0, 60.0, scores)
    assert row.std == pytest.approx(math.sqrt((400 + 100 + 900) / 2))
    assert row.standard_error == pytest.approx(row.std / math.sqrt(3))


def test_missing_cells_leave_seeds_out_and_are_said() -> None:
    grid = without(
        made_grid(), lambda result: (result.cell.label, result.cell.task, result.cell.seed) == ("N=2", HOPPER, 3)
    )
    failed = next(result for result in grid.results if result.cell.label == "N=10" and result.cell.seed == 0)
    grid = replace(
        grid,
        results=tuple(result for result in grid.results if result is not failed),
        failures=(CellStatus(failed.cell, FAILED, "diverged", "loss is not finite"),),
    )
    analysis = analyse(grid, SETTINGS)
    matrix = analysis.rules["last"].matrices["N=2"]
    assert (matrix.seeds, matrix.left_out, len(matrix.scores)) == ((0, 1, 2, 4), (3,), 4)
    rows = {(row.label, row.task): row for row in analysis.rules["last"].per_task}
    assert (len(rows["N=2", HOPPER].seeds), rows["N=2", HOPPER].pending) == (4, 1)
    assert (len(rows["N=2", WALKER].seeds), rows["N=2", WALKER].pending) == (5, 0)
    assert rows[failed.cell.label, failed.cell.task].failed == 1
    assert analysis.rules["last"].comparisons.rows["N=2"].seeds == 4
    assert said(analysis, "1 of 30 cells have no result yet")
    assert said(analysis, "1 of 30 cells failed (1 diverged), of N=10")
    assert said(analysis, "Aggregates of N=2; N=10 leave out the seeds that lack a task")


def test_a_setting_without_a_complete_seed_has_rows_only() -> None:
    grid = without(made_grid(), lambda result: result.cell.label == "N=2" and result.cell.task == HOPPER)
    analysis = analyse(grid, SETTINGS)
    rule = analysis.rules["offline"]
    assert (rule.matrices["N=2"].seeds, rule.matrices["N=2"].left_out) == ((), (0, 1, 2, 3, 4))
    assert "N=2" not in {**rule.aggregates, **rule.comparisons.rows, **rule.profiles.shares}
    rows = {(row.label, row.task): row for row in rule.per_task}
    assert rows["N=2", WALKER].mean is not None
    assert (rows["N=2", HOPPER].mean, rows["N=2", HOPPER].lowest, rows["N=2", HOPPER].pending) == (None, None, 5)
    assert rule.comparisons.comparisons == 1
    assert [gap.label for gap in analysis.gaps] == ["N=5", "N=10"]
    assert {curve.task for curve in analysis.curves if curve.label == "N=2"} == {WALKER}
    assert said(analysis, "No seed of N=2 has all tasks")


@pytest.mark.parametrize("missing", ["everything", "the base"])
def test_nothing_to_compare_with(missing: str) -> None:
    grid = made_grid()
    analysis = analyse(
        without(grid, lambda result: missing == "everything" or result.cell.label == grid.base), SETTINGS
    )
    assert analysis.rules["last"].comparisons.rows == {}
    assert len(analysis.rules["last"].aggregates) == (0 if missing == "everything" else 2)
    json.dumps(analysis.as_dict(), allow_nan=False)


def test_a_score_that_is_no_number_is_left_out_and_said() -> None:
    grid = made_grid(score=lambda value, task, seed: math.nan if (value, seed) == ("2", 1) else 50.0 + seed)
    analysis = analyse(grid, SETTINGS)
    assert analysis.rules["last"].matrices["N=2"].seeds == (0, 2, 3, 4)
    assert said(analysis, "2 finished cells have a score that is no number, of N=2")
    json.dumps(analysis.as_dict(), allow_nan=False)


def test_one_seed_has_no_interval() -> None:
    analysis = analyse(made_grid(seeds=1), SETTINGS)
    figures = analysis.rules["last"].aggregates["N=2"]
    assert (figures.iqm.low, figures.mean.high) == (None, None)
    row = analysis.rules["last"].comparisons.rows["N=2"]
    assert (row.probability.low, row.mean_difference.low, row.verdict) == (None, None, "undecided")
    assert (analysis.curves[0].mean.low, analysis.rules["last"].per_task[0].std) == ((), None)
    assert said(analysis, "One seed allows no interval.")


def test_results_are_repeatable_and_numpys_generator_is_left_alone(whole: Analysis) -> None:
    grid = made_grid()
    np.random.seed(123)
    expected = np.random.random(3)
    np.random.seed(123)
    again = analyse(replace(grid, results=grid.results[::-1]), SETTINGS)
    assert np.random.random(3) == pytest.approx(expected, abs=0)
    assert again == whole


def test_equal_results_decide_nothing() -> None:
    analysis = analyse(made_grid(seeds=10, score=noisy(lambda seed: 0.0)), SETTINGS)
    for row in analysis.rules["last"].comparisons.rows.values():
        assert (row.p, row.corrected, row.verdict) == (1.0, 1.0, "undecided")
        assert row.probability.point == pytest.approx(0.5)
        assert (row.iqm_difference.low, row.mean_difference.high) == (0.0, 0.0)
    assert said(analysis, "Every run of N=2; N=5; N=10 gave the same scores")


def test_settings_that_ran_the_same_cells() -> None:
    grid = made_grid()
    twins = [
        replace(result, cell=replace(result.cell, label="N=2b"))
        for result in grid.results
        if result.cell.label == "N=2"
    ]
    grid = replace(grid, labels=(*grid.labels, "N=2b"), results=(*grid.results, *twins))
    analysis = analyse(grid, SETTINGS)
    assert said(analysis, "Every run of N=2; N=2b gave the same scores")
    figures = analysis.rules["last"].aggregates
    assert figures["N=2"] == figures["N=2b"]


@pytest.mark.parametrize(
    ("seeds", "gain", "verdict"),
    [
        (10, lambda seed: 20.0, "better"),
        (10, lambda seed: -20.0, "worse"),
        (9, lambda seed: 20.0, "undecided"),  # p = 2/512 would do, the number of seeds does not
        (10, lambda seed: 20.0 * (-1) ** seed, "undecided"),
    ],
)
def test_verdicts(seeds: int, gain: Callable[[int], float], verdict: str) -> None:
    row = comparison(seeds, gain)
    assert row.verdict == verdict
    assert row.corrected == min(1.0, 2 * row.p)  # two settings, equal p


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    row = comparison(10, lambda seed: 2.0)
    assert row.mean_difference.low == pytest.approx(2.0)
    assert row.mean_difference.high == pytest.approx(2.0)
    assert row.probability.low is not None
    assert row.probability.low < 0.6  # which compares all runs with all others


def test_too_few_pairs_for_any_verdict_are_said() -> None:
    analysis = analyse(made_grid(range(5), (WALKER,), 5), SETTINGS)
    assert said(analysis, "4 comparisons with N=3")
    assert said(analysis, "So few pairs of runs cannot decide so many comparisons")
    assert said(analysis, "the corrected p would be 0.25")  # 4 x 2/32
    assert not said(analyse(made_grid(range(5), seeds=5), SETTINGS), "So few pairs")


def test_cautions(whole: Analysis) -> None:
    assert said(whole, "All scores: not D4RL.")
    assert said(whole, "Few seeds: every setting has 5. Below 10")
    assert said(whole, "2 comparisons with N=5 by each selection rule; p-values are corrected")
    assert said(whole, "with 5 seeds on 1 task, 95% intervals held the true value in")
    assert not said(whole, "One task only")
    facts = {"versions": {"torch": ("2.12", "2.13"), "dqlab": "0.1"}, "device_names": ["H200", "a processor"]}
    grid = replace(made_grid(tasks=(WALKER,), seeds=20), facts=facts)
    analysis = analyse(grid, replace(SETTINGS, rules=("last",)))
    assert said(analysis, f"One task only ({WALKER})")
    assert said(analysis, "different devices: H200; a processor.")
    assert said(analysis, "different torch: 2.12; 2.13.")
    assert not said(analysis, "Few seeds")
    assert not said(analysis, "best_online picks")


def test_curves_have_the_steps_that_all_runs_have(whole: Analysis) -> None:
    assert len(whole.curves) == 6
    assert len(whole.total_curves) == 3
    curve = whole.curves[0]
    assert (curve.label, curve.task, curve.steps, curve.seeds) == ("N=2", WALKER, (1000, 2000, 3000, 4000, 5000), 5)
    assert curve.mean.point[-1] == pytest.approx(whole.rules["last"].per_task[0].mean.point)  # type: ignore[union-attr]
    total = whole.total_curves[0]
    assert total.iqm.point[-1] == pytest.approx(whole.rules["last"].aggregates["N=2"].iqm.point)
    assert total.iqm.low[-1] == pytest.approx(whole.rules["last"].aggregates["N=2"].iqm.low)
    assert total.mean.point[0] == pytest.approx(total.mean.point[-1] / 5)


def test_curves_of_runs_that_stopped_early_and_of_untrained_policies() -> None:
    grid = made_grid((5,), (WALKER,), 3)
    short = made_result(grid.results[0].cell, 50.0, evaluations=2)
    untrained = {"step": 0, "score_mean": 1.5}
    results = tuple(
        replace(result, summary={**result.summary, "untrained": untrained}) for result in (short, *grid.results[1:])
    )
    (curve,), (total,) = (lambda a: (a.curves, a.total_curves))(analyse(replace(grid, results=results), SETTINGS))
    assert (curve.steps, curve.mean.point[0]) == ((0, 1000, 2000), 1.5)
    assert total == replace(curve, task="")


def test_checkpoint_gaps_by_hand(whole: Analysis) -> None:
    for gap in whole.gaps:
        assert gap.cells == 10
        for figure, expected in ((gap.over_last, 3.0), (gap.over_offline, 4.0)):
            assert (figure.point, figure.low, figure.high) == pytest.approx((expected,) * 3)


def test_references() -> None:
    published = {"N=2": {WALKER: (51.0, 0.5), HOPPER: (90.0,)}, "TD3+BC": {WALKER: (110.1,)}}
    settings = replace(SETTINGS, reference=published, reference_rule="last", reference_source="Table 1")
    analysis = analyse(made_grid(score=lambda value, task, seed: 49.0 + seed), settings)
    assert analysis.references is not None
    near, far, other = analysis.references.rows
    assert (near.published, near.error, near.difference, near.inside) == (51.0, 0.5, 0.0, True)
    assert (far.error, far.difference, far.inside) == (None, -39.0, False)
    assert (other.ours, other.difference, other.inside) == (None, None, None)
    both, none = analysis.references.averages
    assert (both.tasks, both.ours, both.published, both.difference) == (TASKS, 51.0, 70.5, -19.5)
    assert (none.tasks, none.ours, none.difference) == ((), None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference_rule": "best"}, "Report.reference_rule='best' is no selection rule. Did you mean 'best_online'"),
        ({"reference": {"N=2": {WALKER: 51.0}}}, "must be (score,) or (score, standard error), not 51.0"),
    ],
)
def test_mistakes_in_references(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        analyse(made_grid(), replace(SETTINGS, **changes))  # type: ignore[arg-type]
    assert words in str(error.value)


def test_as_dict_is_plain_json(whole: Analysis) -> None:
    text = json.dumps(whole.as_dict(), allow_nan=False)
    read = json.loads(text)
    iqm = whole.rules["offline"].aggregates["N=5"].iqm
    assert read["rules"]["offline"]["aggregates"]["N=5"]["iqm"] == {
        "point": iqm.point,
        "low": iqm.low,
        "high": iqm.high,
    }
    broken = replace(whole, confidence=math.nan)
    with pytest.raises(ValueError, match="not finite"):
        broken.as_dict()


@pytest.mark.parametrize(("more", "compared"), [({}, True), ({"hopper-medium-v2": (50.0,)}, False)])
def test_a_published_average_stands_beside_ours_over_the_same_tasks(more: dict[str, Any], compared: bool) -> None:
    grid = made_grid((5,), score=lambda value, task, seed: 50.0 if task == TASKS[0] else 70.0)
    published = {"N=5": {TASKS[0]: (52.0,), "average": (61.0,), **more}}
    found = analyse(grid, Report(reps=100, reference=published, reference_rule="last")).references
    assert found is not None
    row = next(row for row in found.rows if row.task == "average")
    assert (row.ours is not None) == compared
    assert row.difference == (pytest.approx(-1.0) if compared else None)
    assert found.averages[0].tasks == (TASKS[0],)  # the average row is no task of its own
