"""The statistics of a whole grid: what is missing, what is compared, what is said.

Figures, intervals, tests and corrections: by hand, by simulation, and held to rliable's to the last bits.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made_grids import TASKS, made_grid, made_result
from rliable import library, metrics
from statsmodels.stats.multitest import multipletests

from dqlab.analysis import resampling
from dqlab.analysis.report.write import results_json
from dqlab.analysis.resampling import METRICS, SEED, Bootstrap, mean_score, sign_flip_tests
from dqlab.analysis.results import FAILED, CellStatus, GridResults, Report
from dqlab.analysis.statistics import BOUNDS, Analysis, analyse, holm, win_matrix
from dqlab.tracking.selection_rules import SELECTION_RULES

SETTINGS = Report(reps=100)
LAST = replace(SETTINGS, rules=("last",))
WALKER, HOPPER = TASKS


def noisy(gain: Callable[[int], float]) -> Callable[[object, str, int], float]:
    """50 for the base, N=5, `gain(seed)` more for the others; seeds and tasks differ."""
    return lambda value, task, seed: 50 + seed + 20 * TASKS.index(task) + (0 if value == "5" else gain(seed))


def complete_seeds(analysis: Analysis, rule: str, label: str) -> list[int]:
    return [seed for (of, name, seed), *_ in analysis.scores.dropna().itertuples() if (of, name) == (rule, label)]


def said(analysis: Analysis, words: str) -> bool:
    return any(words in sentence for sentence in analysis.cautions)


def without(grid: GridResults, wanted: Callable[[CellStatus], bool]) -> GridResults:
    """Its cells for which that holds are pending."""
    kept, pending = ([each for each in grid.results if wanted(each) == gone] for gone in (False, True))
    return replace(grid, results=tuple(kept), pending=tuple(CellStatus(each.cell) for each in pending))


@pytest.fixture(scope="module")
def whole() -> Analysis:
    return analyse(made_grid(), SETTINGS)


def test_every_rule_has_all_figures(whole: Analysis) -> None:
    labels, means = list(whole.results.labels), whole.figure("last", "mean").point
    for rule, offset in zip(SELECTION_RULES, (0, -1, 3, -2), strict=True):
        assert all(list(whole.figure(rule, metric).index) == labels for metric in METRICS)
        assert list(whole.profiles.setting[whole.profiles.rule == rule].unique()) == labels
        assert list(whole.compared(rule).index) == ["N=2", "N=10"]
        assert list(whole.figure(rule, "mean").point) == pytest.approx(list(means + offset))
    gains = whole.gains[whole.gains.rule == "best_online"][["gain", "gain_low", "gain_high"]]
    assert gains.to_numpy() == pytest.approx(np.full((3, 3), 3.0))


def test_per_task_by_hand() -> None:
    scores = (10.0, 20.0, 60.0)
    analysis = analyse(made_grid((5,), (WALKER,), 3, lambda *cell: scores[int(cell[2])]), LAST)
    row = analysis.task_scores.loc[("last", "N=5", WALKER)]
    assert analysis.figure("last", "mean", WALKER).point["N=5"] == 30.0
    assert (row.lowest, row.highest, row.scores) == (10.0, 60.0, list(scores))
    assert row["std"] == pytest.approx(math.sqrt((400 + 100 + 900) / 2))
    assert row.standard_error == pytest.approx(row["std"] / math.sqrt(3))


def test_missing_cells_and_scores_leave_seeds_out_and_are_said() -> None:
    lost = {("N=2", HOPPER, 3): "pending", ("N=10", WALKER, 0): "failed", ("N=10", HOPPER, 1): "NaN"}
    grid, results, failures, pending = made_grid(), [], [], []
    for each in grid.results:
        state = lost.get((each.cell.label, each.cell.task, each.cell.seed))
        if state == "pending":
            pending.append(CellStatus(each.cell))
        elif state == "failed":
            failures.append(CellStatus(each.cell, FAILED, "diverged", "loss is not finite"))
        else:
            results.append(made_result(each.cell, math.nan) if state == "NaN" else each)
    grid = replace(grid, results=tuple(results), failures=tuple(failures), pending=tuple(pending))
    analysis = analyse(grid, SETTINGS)
    assert complete_seeds(analysis, "last", "N=2") == [0, 1, 2, 4]
    assert complete_seeds(analysis, "last", "N=10") == [2, 3, 4]
    seeds = analysis.task_scores.seeds["last"]["N=2"]
    assert (seeds[HOPPER], seeds[WALKER]) == ([0, 1, 2, 4], [0, 1, 2, 3, 4])
    assert analysis.compared("last").seeds["N=2"] == 4
    for words in (
        "1 of 30 cells have no result yet",
        "1 of 30 cells failed (1 diverged), of N=10",
        "1 finished cells have a score that is no number, of N=10",
        "Aggregates of N=2 and N=10 leave out seeds that lack a task",
    ):
        assert said(analysis, words)
    results_json(analysis)


def test_a_setting_without_a_complete_seed_has_rows_only() -> None:
    grid = without(made_grid(), lambda each: each.cell.label == "N=2" and each.cell.task == HOPPER)
    analysis = analyse(grid, SETTINGS)
    assert complete_seeds(analysis, "offline", "N=2") == []
    of_rule = (analysis.compared("offline").index, analysis.profiles.setting, analysis.figure("offline", "iqm").index)
    assert [set(labels) for labels in of_rule] == [{"N=10"}, {"N=5", "N=10"}, {"N=5", "N=10"}]
    assert "N=2" in analysis.figure("offline", "mean", WALKER).index
    assert "N=2" not in analysis.figure("offline", "mean", HOPPER).index
    assert list(analysis.gains.setting.unique()) == ["N=5", "N=10"]
    assert set(analysis.curves.task[analysis.curves.setting == "N=2"]) == {WALKER}
    assert said(analysis, "No seed of N=2 has all tasks")


@pytest.mark.parametrize(("missing", "left"), [(("N=2", "N=5", "N=10"), 0), (("N=5",), 2)])
def test_nothing_to_compare_with(missing: tuple[str, ...], left: int) -> None:
    analysis = analyse(without(made_grid(), lambda each: each.cell.label in missing), SETTINGS)
    assert analysis.comparisons.empty
    assert len(analysis.figure("last", "iqm")) == left
    results_json(analysis)


def test_one_seed_has_no_interval() -> None:
    analysis = analyse(made_grid(seeds=1), SETTINGS)
    for frame in (analysis.estimates, analysis.curves, analysis.profiles):
        assert frame.point.notna().all()
        assert frame[["low", "high"]].isna().all(axis=None)
    assert set(analysis.comparisons.verdict) == {"undecided"}
    assert analysis.task_scores["std"].isna().all()
    assert said(analysis, "no setting is called better or worse, and one seed allows no interval.")


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
    assert said(analysis, "Every run of N=2, N=5 and N=10 gave the same scores")


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
    row = analyse(made_grid((2, 5, 10), (WALKER,), seeds, noisy(gain)), LAST).compared("last").loc["N=2"]
    assert row.verdict == verdict
    assert row.corrected == min(1.0, 2 * row.p)  # two settings, equal p


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    analysis = analyse(made_grid((2, 5), (WALKER,), 10, noisy(lambda seed: 2.0)), LAST)
    other = "N=5"  # of two settings, the first is the base
    assert list(analysis.figure("last", "mean_difference").loc[other]) == pytest.approx([-2.0] * 3)
    assert analysis.figure("last", "probability").high[other] > 0.4  # which compares all runs with all others


def test_too_few_pairs_for_any_verdict_are_said() -> None:
    analysis = analyse(made_grid(range(5), (WALKER,), 5), LAST)
    assert said(analysis, "4 comparisons with N=3")
    assert said(analysis, "So few pairs of runs cannot decide any comparison")
    assert said(analysis, "the corrected p would be 0.25")  # 4 x 2/32
    assert not said(analyse(made_grid(range(5), seeds=5), LAST), "So few pairs")


def test_cautions(whole: Analysis) -> None:
    for words in (
        "All scores: not D4RL.",
        "Few seeds: a setting has 5. Below 10 no setting is called better or worse, and intervals are narrower",
        "2 comparisons with N=5 by each selection rule; p-values are corrected",
        "best-online picks",
    ):
        assert said(whole, words)
    assert not said(whole, "One task only")
    facts = {"versions": {"torch": ("2.12", "2.13"), "dqlab": "0.1"}, "device_names": ["H200", "a processor", "H200"]}
    grid = made_grid((2, 5), tasks=(WALKER,), seeds=20)
    steps = [40 if each.cell.seed else 20_000 for each in grid.results]
    results = [replace(r, summary={**r.summary, "steps": n}) for r, n in zip(grid.results, steps, strict=True)]
    analysis = analyse(replace(grid, facts=facts, results=tuple(results)), LAST)
    for words in (
        f"One task only ({WALKER})",
        "different devices: H200 and a processor.",
        "different torch: 2.12 and 2.13.",
        "Cells were trained for different numbers of updates: 40 and 20,000.",
    ):
        assert said(analysis, words)
    for words in ("Few seeds", "best-online picks", "different dqlab"):
        assert not said(analysis, words)
    assert not said(whole, "different numbers of updates")


def test_caveats_of_some_tasks_name_them() -> None:
    grid = made_grid((2, 5))
    own = {WALKER: "not D4RL", HOPPER: "other physics"}
    results = tuple(replace(r, summary={**r.summary, "caveat": own.get(r.cell.task, "")}) for r in grid.results)
    analysis = analyse(replace(grid, results=results), LAST)
    assert said(analysis, f"Scores on {WALKER}: not D4RL.")
    assert said(analysis, f"Scores on {HOPPER}: other physics.")
    assert not said(analysis, "All scores")


def test_curves_have_the_steps_that_all_runs_have(whole: Analysis) -> None:
    assert len(whole.curves.groupby(["setting", "task"])) == 6
    curve = whole.curves.query("setting == 'N=2' and task == @WALKER")
    assert (list(curve.step), set(curve.seeds)) == ([1000, 2000, 3000, 4000, 5000], {5})
    last = whole.figure("last", "mean", WALKER).loc["N=2"]
    assert list(curve[["point", "low", "high"]].iloc[-1]) == pytest.approx(list(last))
    grid = made_grid((5,), (WALKER,), 3)
    short = (made_result(grid.results[0].cell, 50.0, evaluations=2), *grid.results[1:])
    untrained: Any = {"untrained": {"step": 0, "score_mean": 1.5, "selection_loss": None}}
    results = tuple(replace(result, summary={**result.summary, **untrained}) for result in short)
    curve = analyse(replace(grid, results=results), SETTINGS).curves
    assert (list(curve.step), curve.point.iloc[0]) == ([0, 1000, 2000], 1.5)


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


@pytest.mark.parametrize(("more", "difference"), [({}, -1.0), ({"hopper-medium-v2": (50.0,)}, math.nan)])
def test_a_published_average_stands_beside_ours_over_the_same_tasks(more: dict[str, Any], difference: float) -> None:
    grid = made_grid((5,), score=lambda value, task, seed: 50.0 if task == TASKS[0] else 70.0)
    published = {"N=5": {TASKS[0]: (52.0,), "average": (61.0,), **more}}
    found = analyse(grid, replace(LAST, reference=published, reference_rule="last"))
    assert found.references.set_index("task").difference["average"] == pytest.approx(difference, nan_ok=True)
    assert list(found.reference_means.tasks) == [(TASKS[0],)]  # the average row is no task of its own


BOOTSTRAP = Bootstrap(100, 0.95)
REPS, CONFIDENCE = 150, 0.9
PUBLISHED = {  # Diffusion-QL's Table 1, gym tasks: mean scores of five seeds
    "BC": (42.6, 52.9, 75.3, 36.6, 18.1, 26.0, 55.2, 52.5, 107.5),
    "IQL": (47.4, 66.3, 78.3, 44.2, 94.7, 73.9, 86.7, 91.5, 109.6),
    "Diffusion-QL": (51.1, 90.5, 87.0, 47.8, 101.3, 95.5, 96.8, 111.1, 110.1),
}
NINE = tuple(f"task-{place}" for place in range(9))
OFFSETS = (-4.5, 2.0, 0.0, 3.5, -1.0)  # sum to 0


def score(value: object, task: str, seed: int) -> float:
    place = NINE.index(task)
    return PUBLISHED[str(value)][place] + OFFSETS[(seed + place) % 5] * (1 + place % 3)


def matrix(name: str) -> np.ndarray:
    return np.array([[score(name, task, seed) for task in NINE] for seed in range(5)])


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(made_grid(tuple(PUBLISHED), NINE, 5, score), Report(reps=REPS, confidence=CONFIDENCE))


def rliables(data: Any, *functions: Any) -> list[tuple[float, ...]]:
    """Point, low and high of each function, as rliable has them."""
    np.random.seed(SEED)
    points, bounds = library.get_interval_estimates(
        {"it": data},
        lambda *scores: np.array([each(*scores) for each in functions]),
        reps=REPS,
        confidence_interval_size=CONFIDENCE,
    )
    return [tuple(row) for row in np.stack([points["it"], *bounds["it"]], axis=-1)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_aggregates_and_profiles_are_rliables(analysis: Analysis, name: str) -> None:
    known = [metrics.aggregate_iqm, metrics.aggregate_mean, metrics.aggregate_median]
    found = rliables(matrix(name), *known, lambda scores: metrics.aggregate_optimality_gap(scores / 100))
    for metric, wanted in zip(METRICS, found, strict=True):
        assert tuple(analysis.figure("last", metric).loc[f"N={name}"]) == pytest.approx(wanted, rel=1e-12)
    profiles = analysis.profiles.query("rule == 'last' and setting == @label", local_dict={"label": f"N={name}"})
    np.random.seed(SEED)
    shares, bounds = library.create_performance_profile(
        {name: matrix(name)}, profiles.threshold.to_numpy(), reps=REPS, confidence_interval_size=CONFIDENCE
    )
    assert pytest.approx(np.stack([shares[name], *bounds[name]])) == profiles[BOUNDS].to_numpy().T


def test_probability_of_improvement_is_rliables(analysis: Analysis) -> None:
    """Also with ties, and other numbers of runs."""
    (wanted,) = rliables([matrix("Diffusion-QL"), matrix("IQL")], metrics.probability_of_improvement)
    found = analysis.figure("last", "probability").loc["N=Diffusion-QL"]
    assert tuple(found) == pytest.approx(wanted, rel=1e-12)
    rng = np.random.default_rng(0)
    for runs in ((5, 5), (3, 7)):
        ours, others = (rng.integers(0, 4, (count, 3)).astype(float) for count in runs)
        expected = metrics.probability_of_improvement(ours, others)
        assert BOOTSTRAP.of_pairs({"it": win_matrix(ours, others)})["it"][0] == pytest.approx(expected)


def test_metrics_by_hand() -> None:
    scores = np.array([[0.0, 10.0, 100.0], [20.0, 30.0, 120.0]])
    found = {name: metric(scores) for name, metric in METRICS.items()}
    gap = 1 - (0 + 0.1 + 1 + 0.2 + 0.3 + 1) / 6
    # the median is of the tasks' means 10, 20, 110
    wanted = {"iqm": (10 + 20 + 30 + 100) / 4, "mean": 280 / 6, "median": 20.0, "optimality_gap": gap}
    assert found == pytest.approx(wanted)


def test_a_setting_has_the_same_figures_alone_and_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """And however many are computed at a time."""
    rng = np.random.default_rng(0)
    many = {place: rng.normal(size=(5, 2)) for place in range(9)}
    tested = [{place: rng.normal(0.5, 1.0, size=(pairs, 1)) for place in range(3)} for pairs in (14, 17)]
    together, tests = BOOTSTRAP.of_each(many, mean_score), list(map(sign_flip_tests, tested))
    for key, item in many.items():
        assert BOOTSTRAP.of_each({key: item}, mean_score)[key] == pytest.approx(together[key])
    monkeypatch.setattr(resampling, "LARGEST", 250)
    monkeypatch.setattr(resampling, "AT_ONCE", 1000)
    for key, item in BOOTSTRAP.of_each(many, mean_score).items():
        assert item == pytest.approx(together[key])
    assert list(map(sign_flip_tests, tested)) == tests


@pytest.mark.parametrize(
    ("differences", "p"),
    [((1, 2, 3), 2 / 8), ((1, 2, -1), 6 / 8), ((0, 0, 0), 1.0), ((-1,) * 10, 2 / 1024), ((5,), 1.0)],
)
def test_sign_flips_by_hand(differences: tuple[float, ...], p: float) -> None:
    test = sign_flip_tests({"it": np.array(differences, float)[:, None]})["it"]
    assert (test.p, test.smallest_p, test.exact) == (p, 2 / 2 ** len(differences), True)


def test_sampled_sign_flips_agree_with_counted_ones() -> None:
    differences = np.random.default_rng(0).normal(0.7, 2.0, size=(17, 1))
    patterns = np.array(list(product((-1.0, 1.0), repeat=17)))
    p = np.mean(np.abs(patterns @ differences) >= abs(differences.sum()) - 1e-9)
    test = sign_flip_tests({"it": differences})["it"]
    assert test.p == pytest.approx(p, abs=5 * np.sqrt(p / resampling.SAMPLED))
    assert (test.exact, test.smallest_p) == (False, 2 / 2**17)


@pytest.mark.parametrize("p", [(), (0.02,), (0.04, 0.01, 0.04, 0.6, 1.0), tuple(np.linspace(1, 0.001, 40))])
def test_corrections_are_statsmodels(p: tuple[float, ...]) -> None:
    known = multipletests(p, method="holm")[1].tolist() if p else []
    assert holm(np.array(p, float)).tolist() == known


@pytest.mark.parametrize(
    ("name", "seeds", "tasks", "grids", "bounds"),
    [
        *(("normal", 20, 3, 500, (0.92, 0.98)), ("normal", 10, 9, 500, (0.92, 0.98))),
        *(("skewed", 20, 9, 500, (0.92, 0.98)), ("skewed", 3, 1, 500, (0.65, 0.81))),
        ("normal", 2, 1, 2000, (0.46, 0.54)),  # two runs hold the median between them half of the time
    ],
)
def test_how_often_intervals_hold_the_true_value(
    name: str, seeds: int, tasks: int, grids: int, bounds: tuple[float, float]
) -> None:
    spec: Any = importlib.util.spec_from_file_location("simulation", ROOT / "benchmarks" / "interval_coverage.py")
    simulation: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    low, high = bounds
    assert all(low <= share <= high for share in simulation.coverage(name, seeds, tasks, grids, 500))
