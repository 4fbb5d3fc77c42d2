"""The statistics of a whole grid: what is missing, what is compared, what is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_grids import TASKS, made_grid, made_result

from dqlab.analysis.report.write import results_json
from dqlab.analysis.resampling import METRICS
from dqlab.analysis.results import FAILED, CellStatus, GridResults, Report
from dqlab.analysis.statistics import ALL_TASKS, BOUNDS, Analysis, analyse
from dqlab.tracking.selection_rules import SELECTION_RULES

SETTINGS = Report(reps=100)
LAST = replace(SETTINGS, rules=("last",))
WALKER, HOPPER = TASKS


def noisy(gain: Callable[[int], float]) -> Callable[[object, str, int], float]:
    """50 for the base, N=5, `gain(seed)` more for the others; seeds and tasks differ."""
    return lambda value, task, seed: 50 + seed + 20 * TASKS.index(task) + (0 if value == "5" else gain(seed))


def compared(seeds: int, gain: Callable[[int], float]) -> tuple[Analysis, Any]:
    """An analysis, and how N=2 compares with the base."""
    analysis = analyse(made_grid((2, 5, 10), (WALKER,), seeds, noisy(gain)), LAST)
    return analysis, analysis.compared("last").loc["N=2"]


def complete_seeds(analysis: Analysis, rule: str, label: str) -> list[int]:
    return [seed for (of, name, seed), *_ in analysis.scores.dropna().itertuples() if (of, name) == (rule, label)]


def one_curve(analysis: Analysis, label: str, task: str, metric: str = "mean") -> Any:
    known = analysis.curves
    return known[(known.setting == label) & (known.task == task) & (known.metric == metric)]


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
    labels = list(whole.results.labels)
    for rule, offset in zip(SELECTION_RULES, (0, -1, 3, -2), strict=True):
        assert all(list(whole.figure(rule, metric).index) == labels for metric in METRICS)
        assert list(whole.profiles.setting[whole.profiles.rule == rule].unique()) == labels
        assert list(whole.compared(rule).index) == ["N=2", "N=10"]
        assert list(whole.figure(rule, "mean").point) == pytest.approx(
            list(whole.figure("last", "mean").point + offset)
        )


def test_per_task_by_hand() -> None:
    scores = (10.0, 20.0, 60.0)
    analysis = analyse(made_grid((5,), (WALKER,), 3, lambda *cell: scores[int(cell[2])]), LAST)
    row = analysis.task_scores.loc[("last", "N=5", WALKER)]
    assert analysis.figure("last", "mean", WALKER).point["N=5"] == 30.0
    assert (row.lowest, row.highest, row.scores) == (10.0, 60.0, list(scores))
    assert row["std"] == pytest.approx(math.sqrt((400 + 100 + 900) / 2))
    assert row.standard_error == pytest.approx(row["std"] / math.sqrt(3))


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
    assert complete_seeds(analysis, "last", "N=2") == [0, 1, 2, 4]
    seeds = analysis.task_scores.seeds["last"]["N=2"]
    assert (seeds[HOPPER], seeds[WALKER]) == ([0, 1, 2, 4], [0, 1, 2, 3, 4])
    assert analysis.compared("last").seeds["N=2"] == 4
    assert said(analysis, "1 of 30 cells have no result yet")
    assert said(analysis, "1 of 30 cells failed (1 diverged), of N=10")
    assert said(analysis, "Aggregates of N=2; N=10 leave out the seeds that lack a task")


def test_a_setting_without_a_complete_seed_has_rows_only() -> None:
    grid = without(made_grid(), lambda result: result.cell.label == "N=2" and result.cell.task == HOPPER)
    analysis = analyse(grid, SETTINGS)
    assert complete_seeds(analysis, "offline", "N=2") == []
    of_rule = (analysis.compared("offline").index, analysis.profiles.setting, analysis.figure("offline", "iqm").index)
    assert [set(labels) for labels in of_rule] == [{"N=10"}, {"N=5", "N=10"}, {"N=5", "N=10"}]
    assert "N=2" in analysis.figure("offline", "mean", WALKER).index
    assert "N=2" not in analysis.figure("offline", "mean", HOPPER).index
    assert list(analysis.figure("best_online", "over_last").index) == ["N=5", "N=10"]
    assert set(analysis.curves.task[analysis.curves.setting == "N=2"]) == {WALKER}
    assert said(analysis, "No seed of N=2 has all tasks")


@pytest.mark.parametrize("missing", ["everything", "the base"])
def test_nothing_to_compare_with(missing: str) -> None:
    grid = made_grid()
    analysis = analyse(
        without(grid, lambda result: missing == "everything" or result.cell.label == grid.base), SETTINGS
    )
    assert analysis.comparisons.empty
    assert len(analysis.figure("last", "iqm")) == (0 if missing == "everything" else 2)
    results_json(analysis)


def test_a_score_that_is_no_number_is_left_out_and_said() -> None:
    grid = made_grid(score=lambda value, task, seed: math.nan if (value, seed) == ("2", 1) else 50.0 + seed)
    analysis = analyse(grid, SETTINGS)
    assert complete_seeds(analysis, "last", "N=2") == [0, 2, 3, 4]
    assert said(analysis, "2 finished cells have a score that is no number, of N=2")
    results_json(analysis)


def test_one_seed_has_no_interval() -> None:
    analysis = analyse(made_grid(seeds=1), SETTINGS)
    for frame in (analysis.estimates, analysis.curves, analysis.profiles):
        assert frame.point.notna().all()
        assert frame[["low", "high"]].isna().all(axis=None)
    assert set(analysis.comparisons.verdict) == {"undecided"}
    assert analysis.task_scores["std"].isna().all()
    assert said(analysis, "One seed allows no interval.")


def test_results_are_repeatable_and_numpys_generator_is_left_alone(whole: Analysis) -> None:
    grid = made_grid()
    np.random.seed(123)
    expected = np.random.random(3)
    np.random.seed(123)
    again = analyse(replace(grid, results=grid.results[::-1]), SETTINGS)
    assert np.random.random(3) == pytest.approx(expected, abs=0)
    assert results_json(again).partition('"analysis"')[2] == results_json(whole).partition('"analysis"')[2]


def test_equal_results_decide_nothing() -> None:
    analysis = analyse(made_grid(seeds=10, score=noisy(lambda seed: 0.0)), LAST)
    for row in analysis.compared("last").itertuples():
        assert (row.p, row.corrected, row.verdict) == (1.0, 1.0, "undecided")
        assert analysis.figure("last", "probability").point[row.Index] == pytest.approx(0.5)
        assert analysis.figure("last", "iqm_difference").low[row.Index] == 0.0
        assert analysis.figure("last", "mean_difference").high[row.Index] == 0.0
    assert said(analysis, "Every run of N=2; N=5; N=10 gave the same scores")


def test_settings_that_ran_the_same_cells() -> None:
    grid = made_grid()
    own = [result for result in grid.results if result.cell.label == "N=2"]
    twins = [replace(result, cell=replace(result.cell, label="N=2b")) for result in own]
    analysis = analyse(replace(grid, labels=(*grid.labels, "N=2b"), results=(*grid.results, *twins)), LAST)
    assert said(analysis, "Every run of N=2; N=2b gave the same scores")
    iqm = analysis.figure("last", "iqm")
    assert list(iqm.loc["N=2"]) == list(iqm.loc["N=2b"])


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
    _, row = compared(seeds, gain)
    assert row.verdict == verdict
    assert row.corrected == min(1.0, 2 * row.p)  # two settings, equal p


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    analysis, _ = compared(10, lambda seed: 2.0)
    assert list(analysis.figure("last", "mean_difference").loc["N=2"]) == pytest.approx([2.0] * 3)
    assert analysis.figure("last", "probability").low["N=2"] < 0.6  # which compares all runs with all others


def test_too_few_pairs_for_any_verdict_are_said() -> None:
    analysis = analyse(made_grid(range(5), (WALKER,), 5), LAST)
    assert said(analysis, "4 comparisons with N=3")
    assert said(analysis, "So few pairs of runs cannot decide any comparison")
    assert said(analysis, "the corrected p would be 0.25")  # 4 x 2/32
    assert not said(analyse(made_grid(range(5), seeds=5), LAST), "So few pairs")


def test_cautions(whole: Analysis) -> None:
    assert said(whole, "All scores: not D4RL.")
    assert said(whole, "Few seeds: a setting has 5. Below 10")
    assert said(whole, "2 comparisons with N=5 by each selection rule; p-values are corrected")
    assert said(whole, "% of simulated grids with 5 seeds on 1 task (docs/statistics.md)")
    assert not said(whole, "One task only")
    facts = {"versions": {"torch": ("2.12", "2.13"), "dqlab": "0.1"}, "device_names": ["H200", "a processor"]}
    grid = replace(made_grid(tasks=(WALKER,), seeds=20), facts=facts)
    analysis = analyse(grid, LAST)
    assert said(analysis, f"One task only ({WALKER})")
    assert said(analysis, "different devices: H200; a processor.")
    assert said(analysis, "different torch: 2.12; 2.13.")
    assert not said(analysis, "Few seeds")
    assert not said(analysis, "best_online picks")


def test_curves_have_the_steps_that_all_runs_have(whole: Analysis) -> None:
    assert len(whole.curves.groupby(["setting", "task"])) == 6 + 3  # every task, and all
    curve = one_curve(whole, "N=2", WALKER)
    assert (list(curve.step), set(curve.seeds)) == ([1000, 2000, 3000, 4000, 5000], {5})
    assert curve.point.iloc[-1] == pytest.approx(whole.figure("last", "mean", WALKER).point["N=2"])
    total = one_curve(whole, "N=2", ALL_TASKS, "iqm").iloc[-1]
    assert list(total[BOUNDS]) == pytest.approx(list(whole.figure("last", "iqm").loc["N=2"]))
    mean = one_curve(whole, "N=2", ALL_TASKS).point
    assert mean.iloc[0] == pytest.approx(mean.iloc[-1] / 5)


def test_curves_of_runs_that_stopped_early_and_of_untrained_policies() -> None:
    grid = made_grid((5,), (WALKER,), 3)
    short = made_result(grid.results[0].cell, 50.0, evaluations=2)
    untrained = {"step": 0, "score_mean": 1.5}
    results = tuple(
        replace(result, summary={**result.summary, "untrained": untrained}) for result in (short, *grid.results[1:])
    )
    analysis = analyse(replace(grid, results=results), SETTINGS)
    curve, total = one_curve(analysis, "N=5", WALKER), one_curve(analysis, "N=5", ALL_TASKS)
    assert (list(curve.step), curve.point.iloc[0]) == ([0, 1000, 2000], 1.5)
    assert total[BOUNDS].to_numpy().tolist() == curve[BOUNDS].to_numpy().tolist()


def test_checkpoint_gaps_by_hand(whole: Analysis) -> None:
    for metric, expected in (("over_last", 3.0), ("over_offline", 4.0)):
        assert whole.figure("best_online", metric).to_numpy() == pytest.approx(np.full((3, 3), expected))


def test_references() -> None:
    published = {"N=2": {WALKER: (51.0, 0.5), HOPPER: (90.0,)}, "TD3+BC": {WALKER: (110.1,)}}
    settings = replace(LAST, reference=published, reference_rule="last", reference_source="Table 1")
    analysis = analyse(made_grid(score=lambda value, task, seed: 49.0 + seed), settings)
    known = json.loads(results_json(analysis))["analysis"]
    near, far, other = pd.DataFrame(**known["references"]).astype(object).to_dict("records")
    assert [near[name] for name in ("published", "error", "difference", "inside")] == [51.0, 0.5, 0.0, True]
    assert [far[name] for name in ("difference", "inside")] == [-39.0, False]
    assert pd.isna([far["error"], *(other[name] for name in ("point", "difference", "inside"))]).all()
    both, none = pd.DataFrame(**known["reference_means"]).to_dict("records")
    assert both == {"setting": "N=2", "point": 51.0, "published": 70.5, "difference": -19.5, "tasks": list(TASKS)}
    assert (none["setting"], none["tasks"]) == ("TD3+BC", [])


@pytest.mark.parametrize(("more", "compared"), [({}, True), ({"hopper-medium-v2": (50.0,)}, False)])
def test_a_published_average_stands_beside_ours_over_the_same_tasks(more: dict[str, Any], compared: bool) -> None:
    grid = made_grid((5,), score=lambda value, task, seed: 50.0 if task == TASKS[0] else 70.0)
    published = {"N=5": {TASKS[0]: (52.0,), "average": (61.0,), **more}}
    found = analyse(grid, replace(LAST, reference=published, reference_rule="last"))
    row = found.references.set_index("task").loc["average"]
    assert row.difference == (pytest.approx(-1.0) if compared else pytest.approx(math.nan, nan_ok=True))
    assert list(found.reference_means.tasks) == [(TASKS[0],)]  # the average row is no task of its own


def test_different_numbers_of_updates_get_a_caution() -> None:
    grid, words = made_grid((2, 5), (WALKER,), 2), "Cells were trained for different numbers of updates"
    for steps, wanted in (((20000, 40), f"{words}: 40; 20,000."), ((40, 40), "")):
        given = [replace(each, summary={**each.summary, "steps": steps[each.cell.seed]}) for each in grid.results]
        assert said(analyse(replace(grid, results=tuple(given)), LAST), wanted or words) == bool(wanted)
