"""What choosing checkpoints and settings by their scores is worth: by hand, by closed forms, by plain loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from made_grids import TASKS, made_grid

from dqlab.analysis.choosing import (
    CHOICES,
    MOST_SWAPS,
    best_weights,
    budget_sizes,
    checkpoint_choices,
)
from dqlab.analysis.report.tables import common_table, order_table, swap_table
from dqlab.analysis.report.write import results_json, sheet_csv
from dqlab.analysis.resampling import Bootstrap
from dqlab.analysis.results import CellStatus, GridResults, Report
from dqlab.analysis.statistics import Analysis, analyse, score_histories, score_table
from dqlab.tracking.selection_rules import SELECTION_RULES

QUICK = Report(reps=100)
BEST_OF_20 = 1.8675
"""Expected maximum of 20 independent standard normals (Harter 1961, table of normal order statistics)."""
Curve = Callable[[str, str, int], "list[float] | np.ndarray"]


def with_curve(result: CellStatus, scores: list[float]) -> CellStatus:
    """Evaluations every 1,000 steps, and what the selection rules make of them; offline takes the first one."""
    row = result.summary["evaluations"][0]
    rows = [{**row, "step": 1000 * (place + 1), "score_mean": score} for place, score in enumerate(scores)]
    chosen = (scores[-1], scores[0], max(scores), float(np.mean(scores[-10:])))
    selection = {
        rule: {**result.summary["selection"][rule], "score_mean": score}
        for rule, score in zip(SELECTION_RULES, chosen, strict=True)
    }
    return replace(result, summary={**result.summary, "evaluations": rows, "selection": selection})  # type: ignore[typeddict-item]


def curved(curve: Curve, values: tuple[str, ...] = ("A", "B"), tasks: int = 1, seeds: int = 3) -> GridResults:
    """A grid of settings N=A, N=B, ... whose runs have these curves."""
    grid = made_grid(values, TASKS[:tasks], seeds, lambda *cell: 0.0)
    cells = [(each, each.cell) for each in grid.results]
    found = [
        with_curve(each, [float(score) for score in curve(cell.points["N"], cell.task, cell.seed)])
        for each, cell in cells
    ]
    return replace(grid, results=tuple(found))


def all_gains(grid: GridResults) -> pd.DataFrame:
    return checkpoint_choices(score_table(grid), score_histories(grid), grid, Bootstrap(100, 0.95))[0]


def gains_of(analysis: Analysis, label: str) -> pd.DataFrame:
    return analysis.gains[analysis.gains.setting == label].set_index("rule")


def test_gains_by_hand() -> None:
    """Two tasks, two seeds, three checkpoints; the common step of task 1 is the second one, of task 2 the first."""
    curves = {(0, 0): [10, 50, 30], (0, 1): [20, 40, 60], (1, 0): [70, 0, 10], (1, 1): [50, 20, 30]}
    analysis = analyse(curved(lambda _, task, seed: curves[TASKS.index(task), seed], ("A",), 2, 2), QUICK)
    found = gains_of(analysis, "N=A")
    last = (30 + 60 + 10 + 30) / 4
    assert found.point["last"] == last
    assert found.gain["best_online"] == (50 + 60 + 70 + 50) / 4 - last
    assert found.gain["common_task"] == (45 + 60) / 2 - last  # means 15, 45, 45 and 60, 10, 20
    assert found.gain["common"] == (15 + 60) / 2 - last  # means over both 37.5, 27.5, 32.5
    # each seed at the other one's best step: 40 at step 2, 30 at step 3; 50 and 70 at step 1
    assert found.held_out["common_task"] == pytest.approx((30 + 40 + 70 + 50) / 4 - last)
    # over both tasks the first seed's best step is the first one, and so is the other's, tied with none
    assert found.held_out["common"] == pytest.approx((30 + 20 + 10 + 50) / 4 - last)
    assert found.held_out[["last", "best_online"]].isna().all()
    assert set(found.fewest) == set(found.most) == {3}


def test_equal_checkpoints_gain_the_known_constant_by_luck_alone() -> None:
    """Best of 20 iid normals: 1.8675 deviations for a run's own choice, by sqrt(seeds) less for a common one."""
    generator, seeds, deviation = np.random.default_rng(0), 4, 10.0
    drawn = {label: generator.normal(50, deviation, (2, seeds, 20)) for label in map(str, range(100))}
    grid = curved(lambda label, task, seed: drawn[label][TASKS.index(task), seed], tuple(drawn), 2, seeds)
    means = all_gains(grid).groupby("rule")[["gain", "held_out"]].mean()
    expected = BEST_OF_20 * deviation
    # standard error: 0.35, of last over 800 runs
    assert means.gain["best_online"] == pytest.approx(expected, abs=1.2)
    assert means.gain["common_task"] == pytest.approx(expected / math.sqrt(seeds), abs=1.2)
    assert means.gain["common"] == pytest.approx(expected / math.sqrt(2 * seeds), abs=1.2)
    assert means.held_out.dropna().to_list() == pytest.approx([0.0, 0.0], abs=1.4)


def test_where_one_checkpoint_is_better_indeed_nothing_of_it_is_luck() -> None:
    analysis = analyse(curved(lambda _, task, seed: [40 + seed, 90 + seed, 60 + seed]), QUICK)
    for figure in ("gain", "held_out"):
        rows = gains_of(analysis, "N=A")[[figure, f"{figure}_low", f"{figure}_high"]]
        assert rows.loc[["common_task", "common"]].to_numpy() == pytest.approx(np.full((2, 3), 30.0))


def test_bounds_are_those_of_the_figures_that_were_there_before() -> None:
    generator = np.random.default_rng(1)
    analysis = analyse(curved(lambda *cell: generator.normal(50, 5, 6), tasks=2, seeds=5), QUICK)
    for label in analysis.results.labels:
        row = gains_of(analysis, label).loc["best_online"]
        known = analysis.figure("best_online", "over_last").loc[label]
        assert list(row[["gain", "gain_low", "gain_high"]]) == pytest.approx(list(known), abs=1e-9)
        mean = analysis.figure("best_online", "mean").loc[label]
        assert list(row[["point", "point_low", "point_high"]]) == pytest.approx(list(mean), abs=1e-9)


def test_intervals_of_the_best_common_checkpoint_hold() -> None:
    """What the procedure gains on average over grids lies in about 95% of its intervals; in none of the plain ones.

    Twelve tasks of equal checkpoints; the percentile interval of the resampled gain lies above the gain itself.
    """
    generator, tasks, seeds = np.random.default_rng(2), [f"task {place}" for place in range(12)], 6
    drawn = {label: generator.normal(50, 5, (12, seeds, 20)) for label in map(str, range(40))}
    grid = made_grid(tuple(drawn), tasks, seeds, lambda *cell: 0.0)
    found = [
        with_curve(each, drawn[each.cell.points["N"]][tasks.index(each.cell.task), each.cell.seed].tolist())
        for each in grid.results
    ]
    gains = all_gains(replace(grid, results=tuple(found)))
    gains = gains[gains.rule == "common_task"]
    true = BEST_OF_20 * 5 / math.sqrt(seeds)
    assert ((gains.gain_low <= true) & (true <= gains.gain_high)).mean() > 0.8  # of 40, with 100 repetitions
    assert ((gains.gain_low <= gains.gain) & (gains.gain <= gains.gain_high)).all()


def test_runs_of_different_length_share_what_all_have_and_it_is_said() -> None:
    grid = curved(lambda _, task, seed: [10, 80, 20, 90, 30][: 5 - 2 * (seed == 1)], ("A",))
    analysis = analyse(grid, QUICK)
    found = gains_of(analysis, "N=A")
    assert (found.fewest["last"], found.most["last"]) == (3, 5)
    assert found.point["last"] == pytest.approx((30 + 20 + 30) / 3)
    assert found.point["best_online"] == pytest.approx((90 + 80 + 90) / 3)
    assert found.point["common"] == 80  # of the three first steps
    assert any("different numbers of checkpoints (3; 5)" in text for text in analysis.cautions)
    assert common_table(analysis).rows[0][-1] == "3\u20135"
    even = analyse(curved(lambda *cell: [1, 2]), QUICK)
    assert not any("numbers of checkpoints" in text for text in even.cautions)


def test_no_common_checkpoint_no_common_choice() -> None:
    """Tasks with steps of their own have a common step each, and none together."""
    grid = curved(lambda *cell: [10, 20], ("A",), tasks=2)
    found = []
    for each in grid.results:
        off = TASKS.index(each.cell.task)
        rows = [{**row, "step": row["step"] + off} for row in each.summary["evaluations"]]
        found.append(replace(each, summary={**each.summary, "evaluations": rows}))  # type: ignore[typeddict-item]
    gains = gains_of(analyse(replace(grid, results=tuple(found)), QUICK), "N=A")
    assert gains.gain["common_task"] == 0
    assert gains.loc["common", ["point", "gain", "gain_low", "held_out"]].isna().all()


def test_the_order_of_settings_by_each_rule() -> None:
    """A is best at its end; B and C have been better before, C at a step that its seeds share."""
    curves = {"A": [0, 0, 50], "B": [0, 0, 40], "C": [0, 70, 30]}

    def curve(value: str, task: str, seed: int) -> list[float]:
        return [60, 0, 40] if (value, seed % 2) == ("B", 0) else [0, 60, 40] if value == "B" else curves[value]  # type: ignore[return-value]

    analysis = analyse(curved(curve, ("A", "B", "C"), seeds=4), QUICK)
    orders = analysis.orders.set_index("rule")
    assert list(orders.index) == list(CHOICES)
    assert (orders.tau["last"], orders.swaps["last"]) == (1.0, 0)
    assert (orders.tau["best_online"], orders.swaps["best_online"], orders.pairs["best_online"]) == (-1.0, 3, 3)
    assert (orders.tau["common"], orders.swaps["common"]) == (pytest.approx(-1 / 3), 2)  # C above both, A above B
    swaps = analysis.swaps[analysis.swaps.rule == "common"]
    assert {(row.higher, row.lower) for row in swaps.itertuples()} == {("N=C", "N=A"), ("N=C", "N=B")}
    assert set(analysis.swaps.share[analysis.swaps.rule == "best_online"]) == {1.0}  # the seeds are alike
    assert orders.kept["best_online"] == 1.0
    assert analysis.gains[analysis.gains.rule == "best_online"]["rank"].to_list() == [3, 2, 1]
    assert [row[2] for row in order_table(analysis).rows][:3] == ["0 of 3", "1 of 3", "3 of 3"]
    assert len(swap_table(analysis).rows) == len(analysis.swaps.groupby("rule").head(5))


def test_swaps_are_as_sure_as_resamples_say() -> None:
    """Against a plain loop over the draws: last favours A, best-online B, by seeds that differ."""
    generator = np.random.default_rng(3)
    drawn = {label: generator.normal(50, 8, (6, 4)) + (label == "A") * np.array([0, 0, 0, 6]) for label in "AB"}
    drawn["B"] += np.array([6, 6, 6, 0])
    analysis = analyse(curved(lambda label, _, seed: drawn[label][seed], ("A", "B"), seeds=6), replace(QUICK, reps=400))
    (swap,) = analysis.swaps[analysis.swaps.rule == "best_online"].itertuples()
    places = generator.integers(0, 6, (4000, 6))
    last = {label: curves[:, -1][places].mean(axis=1) for label, curves in drawn.items()}
    best = {label: curves.max(axis=1)[places].mean(axis=1) for label, curves in drawn.items()}
    share = ((last["A"] > last["B"]) & (best["B"] > best["A"])).mean()
    assert (swap.higher, swap.lower) == ("N=B", "N=A")
    assert swap.share == pytest.approx(share, abs=0.08)


def test_swaps_that_are_kept_are_few() -> None:
    generator = np.random.default_rng(4)
    drawn = {str(place): generator.normal(50, 5, (3, 5)) for place in range(40)}
    analysis = analyse(curved(lambda label, _, seed: drawn[label][seed], tuple(drawn)), QUICK)
    assert analysis.orders.swaps.max() > MOST_SWAPS
    assert analysis.swaps.groupby("rule").size().max() == MOST_SWAPS


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 1.0, 0.0, 2.0, 2.0, 2.0]])
def test_the_best_of_k_is_the_mean_over_all_subsets(values: list[float]) -> None:
    sizes = np.arange(1, len(values) + 1)
    for size, weights in zip(sizes, best_weights(np.array(values), sizes), strict=True):
        subsets = list(combinations(values, int(size)))
        assert weights @ values == pytest.approx(np.mean([max(each) for each in subsets]))
        assert weights.sum() == pytest.approx(1.0)
        assert all(
            weights[values.index(value)] == pytest.approx(weight) for value, weight in zip(values, weights, strict=True)
        )


def test_of_many_policies_some_sizes_are_drawn() -> None:
    assert budget_sizes(5).tolist() == [1, 2, 3, 4, 5]
    sizes = budget_sizes(2000)
    assert (sizes[0], sizes[-1]) == (1, 2000)
    assert len(sizes) <= 16
    assert best_weights(np.arange(2000.0), sizes).sum(axis=-1) == pytest.approx(np.ones(len(sizes)))


def test_tuning_curves_against_a_plain_loop() -> None:
    """Every subset of settings, every seed that chooses, every other seed that tells the score."""
    generator, seeds, labels = np.random.default_rng(5), 4, tuple("ABCDE")
    scores = {key: generator.normal(50, 10) for key in product(labels, TASKS, range(seeds))}
    analysis = analyse(curved(lambda *cell: [scores[cell]], labels, 2, seeds), QUICK)
    found = analysis.tuning[(analysis.tuning.rule == "last") & (analysis.tuning.axis == "")].set_index("policies")
    for size in (1, 2, 4, 5):
        seen, held_out = [], []
        for some, task, seed in product(combinations(labels, size), TASKS, range(seeds)):
            best = max(some, key=lambda label: scores[label, task, seed])
            seen.append(scores[best, task, seed])
            held_out += [scores[best, task, other] for other in range(seeds) if other != seed]
        assert (found.seen[size], found.held_out[size]) == pytest.approx((np.mean(seen), np.mean(held_out)))
    assert (found.seen_low <= found.seen).all()
    assert (found.held_out_low <= found.held_out_high).all()


def test_budgets_within_points_of_an_axis_and_over_seeds() -> None:
    grid = curved(lambda label, *_: [{"A": 10.0, "B": 20.0, "C": 70.0, "D": 40.0}[label]], tuple("ABCD"))
    points = {"A": ("x", "1"), "B": ("x", "2"), "C": ("y", "1"), "D": ("y", "2")}
    results = [
        replace(each, cell=replace(each.cell, points=dict(zip(("p", "q"), points[each.cell.points["N"]], strict=True))))
        for each in grid.results
    ]
    grid = replace(grid, axes={"p": ("x", "y"), "q": ("1", "2")}, results=tuple(results))
    tuning = analyse(grid, QUICK).tuning
    known = tuning[tuning.rule == "last"].set_index(["axis", "point", "policies"]).held_out
    assert known["p"].to_dict() == pytest.approx({("x", 1): 15, ("x", 2): 20, ("y", 1): 55, ("y", 2): 70})
    assert known["q"].to_dict() == pytest.approx({("1", 1): 40, ("1", 2): 70, ("2", 1): 30, ("2", 2): 40})
    alone = analyse(curved(lambda _, task, seed: [[10.0, 20.0, 60.0][seed]], ("A",)), QUICK).tuning
    alone = alone[alone.rule == "last"]
    assert alone.seen.to_list() == pytest.approx([30, (20 + 60 + 60) / 3, 60])
    assert alone.held_out.isna().all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_intervals_that_they_do_not_allow(seeds: int) -> None:
    analysis = analyse(curved(lambda label, task, seed: [5.0 + seed, 7.0 - seed], seeds=seeds), QUICK)
    assert analysis.tuning[["seen_low", "held_out_high"]].isna().all(axis=None)
    common = analysis.gains[analysis.gains.rule == "common"]
    assert common.held_out.isna().all() == common.gain_low.isna().all() == (seeds == 1)
    json.loads(results_json(analysis))
    assert sheet_csv(analysis.gains, analysis).count("\n") == 1 + 2 * len(CHOICES)
