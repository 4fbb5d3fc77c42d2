"""What choosing checkpoints and settings by their scores is worth: by hand, by closed forms, by plain loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_grids import TASKS, made_grid

from dqlab.analysis.choosing import CHOICES
from dqlab.analysis.report.tables import choice_table, order_table
from dqlab.analysis.report.write import results_json, sheet_csv
from dqlab.analysis.resampling import Bootstrap, mean_score
from dqlab.analysis.results import GridResults, Report
from dqlab.analysis.statistics import Analysis, analyse
from dqlab.tracking.selection_rules import SELECTION_RULES

QUICK = Report(reps=100)
BEST_OF_20 = 1.8675
"""Expected maximum of 20 independent standard normals (Harter 1961, table of normal order statistics)."""


def curved(
    curve: Callable[[str, str, int], Any],
    values: Sequence[str] = ("A", "B"),
    tasks: Sequence[str] = TASKS[:1],
    seeds: int = 3,
) -> GridResults:
    """N=A, N=B, ... with these scores every 1,000 steps, and what the rules make of them; offline, the first."""
    grid, found = made_grid(values, tasks, seeds, lambda *cell: 0.0), []
    for each in grid.results:
        scores = [float(score) for score in curve(each.cell.points["N"], each.cell.task, each.cell.seed)]
        steps = range(1000, 1000 * len(scores) + 1, 1000)
        row, selection = each.summary["evaluations"][0], each.summary["selection"]
        rows = [{**row, "step": step, "score_mean": score} for step, score in zip(steps, scores, strict=True)]
        chosen = zip(SELECTION_RULES, (scores[-1], scores[0], max(scores), float(np.mean(scores[-10:]))), strict=True)
        selection = {rule: {**selection[rule], "score_mean": score} for rule, score in chosen}  # type: ignore[typeddict-item]
        summary: Any = {**each.summary, "evaluations": rows, "selection": selection}
        found.append(replace(each, summary=summary))
    return replace(grid, results=tuple(found))


def gains_of(analysis: Analysis, label: str) -> pd.DataFrame:
    return analysis.gains[analysis.gains.setting == label].set_index("rule")


def test_gains_by_hand() -> None:
    """Two tasks, two seeds, three checkpoints; the common step of task 1 is the second one, of task 2 the first."""
    curves = {(0, 0): [10, 50, 30], (0, 1): [20, 40, 60], (1, 0): [70, 0, 10], (1, 1): [50, 20, 30]}
    analysis = analyse(curved(lambda _, task, seed: curves[TASKS.index(task), seed], ("A",), TASKS, 2), QUICK)
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


def test_evaluations_of_pretraining_are_not_chosen_from() -> None:
    """What no selection rule considers is no checkpoint, however well it scored; curves have it."""
    plain = curved(lambda _, task, seed: [10, 30, 20], ("A",))
    early: Any = {**plain.results[0].summary["evaluations"][0], "step": 500, "score_mean": 90.0, "selection_loss": None}
    found = [
        replace(
            each, summary={**each.summary, "evaluations": [early, *each.summary["evaluations"]], "untrained": early}
        )
        for each in plain.results
    ]
    analysis, known = analyse(replace(plain, results=tuple(found)), QUICK), analyse(plain, QUICK)
    pd.testing.assert_frame_equal(analysis.gains, known.gains)
    assert (500 in set(analysis.curves.step), 500 in set(known.curves.step)) == (True, False)


def test_equal_checkpoints_gain_the_known_constant_by_luck_alone_and_intervals_hold_it() -> None:
    """Best of 20 iid normals: 1.8675 deviations for a run's own choice, by sqrt(seeds) less for a common one.

    What the procedure gains on average over grids lies in about 95% of its intervals; in 2% of the plain ones, since
    the percentile interval of the resampled gain lies above the gain itself.
    """
    generator, tasks, seeds, deviation = np.random.default_rng(2), [f"task {n}" for n in range(12)], 6, 5.0
    drawn = {label: generator.normal(50, deviation, (12, seeds, 20)) for label in map(str, range(40))}
    grid = curved(lambda label, task, seed: drawn[label][tasks.index(task), seed], tuple(drawn), tasks, seeds)
    gains = analyse(grid, QUICK).gains
    means, luck = gains.groupby("rule")[["gain", "held_out"]].mean(), BEST_OF_20 * deviation
    # standard error: 0.1, of last over 2,880 runs
    assert means.gain["best_online"] == pytest.approx(luck, abs=0.35)
    assert means.gain["common_task"] == pytest.approx(luck / math.sqrt(seeds), abs=0.35)
    assert means.gain["common"] == pytest.approx(luck / math.sqrt(12 * seeds), abs=0.35)
    assert means.held_out.dropna().to_list() == pytest.approx([0.0, 0.0], abs=0.4)
    common, true = gains[gains.rule == "common_task"], luck / math.sqrt(seeds)
    assert ((common.gain_low <= true) & (true <= common.gain_high)).mean() > 0.8  # of 40, with 100 repetitions
    assert ((common.gain_low <= common.gain) & (common.gain <= common.gain_high)).all()


def test_bounds_are_those_of_the_mean_and_of_paired_differences() -> None:
    generator = np.random.default_rng(1)
    analysis = analyse(curved(lambda *cell: generator.normal(50, 5, 6), tasks=TASKS, seeds=5), QUICK)
    scores = analysis.scores.loc["best_online"] - analysis.scores.loc["last"]
    for label in analysis.results.labels:
        row = gains_of(analysis, label).loc["best_online"]
        known = analysis.figure("best_online", "mean").loc[label]
        assert row[["point", "point_low", "point_high"]].to_list() == pytest.approx(known.to_list(), abs=1e-9)
        known = Bootstrap(100, 0.95).of_each({label: scores.loc[label].to_numpy()}, mean_score)[label]
        assert row[["gain", "gain_low", "gain_high"]].to_list() == pytest.approx(known.tolist(), abs=1e-9)


def test_runs_of_different_length_share_what_all_have_and_it_is_said() -> None:
    grid = curved(lambda _, task, seed: [10, 80, 20, 90, 30][: 5 - 2 * (seed == 1)], ("A",))
    analysis = analyse(grid, QUICK)
    found = gains_of(analysis, "N=A")
    assert (found.fewest["last"], found.most["last"]) == (3, 5)
    assert found.point["last"] == pytest.approx((30 + 20 + 30) / 3)
    assert found.point["best_online"] == pytest.approx((90 + 80 + 90) / 3)
    assert found.point["common"] == 80  # of the three first steps
    assert any("different numbers of checkpoints (3 and 5)" in text for text in analysis.cautions)
    assert choice_table(analysis).rows[0][-1] == "3\u20135"
    even = analyse(curved(lambda *cell: [1, 2]), QUICK)
    assert not any("numbers of checkpoints" in text for text in even.cautions)


def test_no_common_checkpoint_no_common_choice() -> None:
    """Tasks with steps of their own have a common step each, and none together."""
    grid = curved(lambda *cell: [10, 20], ("A",), TASKS)
    for each in grid.results:
        for row in each.summary["evaluations"]:
            row["step"] += TASKS.index(each.cell.task)
    gains = gains_of(analyse(grid, QUICK), "N=A")
    assert gains.gain["common_task"] == 0
    assert gains.loc["common", ["point", "gain", "gain_low", "held_out"]].isna().all()


def test_the_order_of_settings_by_each_rule() -> None:
    """A is best at its end; B and C have been better before, C at a step that its seeds share."""
    curves = {"A": [0, 0, 50], "B": [0, 60, 40], "C": [0, 70, 30]}

    def curve(value: str, task: str, seed: int) -> list[float]:
        return [60, 0, 40] if (value, seed % 2) == ("B", 0) else curves[value]  # type: ignore[return-value]

    analysis = analyse(curved(curve, ("A", "B", "C"), seeds=4), QUICK)
    orders = analysis.orders.set_index("rule")
    assert list(orders.index) == list(CHOICES)
    assert (orders.tau["last"], orders.swaps["last"], orders.changed["last"]) == (1.0, 0, [])
    assert (orders.tau["best_online"], orders.swaps["best_online"], orders.pairs["best_online"]) == (-1.0, 3, 3)
    assert (orders.tau["common"], orders.swaps["common"]) == (pytest.approx(-1 / 3), 2)
    assert orders.changed["common"] == [["N=C", "N=A"], ["N=C", "N=B"]], "the larger one first"
    assert orders.kept["best_online"] == 1.0, "the seeds are alike"
    assert analysis.gains[analysis.gains.rule == "best_online"]["rank"].to_list() == [3, 2, 1]
    rows = {name: (swaps, changed) for name, _, swaps, _, changed in order_table(analysis).rows}
    assert rows["last"] == ("0 of 3", "\u2013")
    assert rows["best common"] == ("2 of 3", "N=C above N=A; N=C above N=B")


def test_tuning_curves_against_a_plain_loop() -> None:
    """Every subset of settings, every seed that chooses, every other seed that tells the score; equal ones share it."""
    generator, seeds, labels = np.random.default_rng(5), 4, tuple("ABCDE")
    scores = {key: float(generator.integers(50, 54)) for key in product(labels, TASKS, range(seeds))}
    analysis = analyse(curved(lambda *cell: [scores[cell]], labels, TASKS, seeds), QUICK)
    found = analysis.tuning[(analysis.tuning.rule == "last") & (analysis.tuning.axis == "")].set_index("policies")
    for size in range(1, 6):
        seen, held_out = [], []
        for some, task, seed in product(combinations(labels, size), TASKS, range(seeds)):
            best = max(scores[label, task, seed] for label in some)
            tied = [label for label in some if scores[label, task, seed] == best]
            others = [seed_ for seed_ in range(seeds) if seed_ != seed]
            seen.append(best)
            held_out.append(np.mean([scores[label, task, other] for label, other in product(tied, others)]))
        assert (found.seen[size], found.held_out[size]) == pytest.approx((np.mean(seen), np.mean(held_out)))
    assert (found.seen_low <= found.seen).all()
    assert (found.held_out_low <= found.held_out_high).all()


def test_of_many_settings_some_budgets_and_swaps_are_shown() -> None:
    """By their best, all but a third come in the opposite order."""
    grid = curved(lambda label, *_: [400.0 - 2.0 * float(label), float(label)], tuple(map(str, range(200))))
    analysis = analyse(grid, QUICK)
    found = analysis.tuning[analysis.tuning.rule == "last"].set_index("policies").seen
    assert len(found) <= 16
    assert (found[1], found[200]) == pytest.approx((99.5, 199.0))
    best = analysis.orders.set_index("rule").loc["best_online"]
    assert len(best.changed) == 100 < best.swaps
    _, _, shown = [row[-1] for row in order_table(analysis).rows][:3]
    assert (shown.count(" above "), shown[-5:]) == (5, "; ...")


def test_budgets_within_points_of_an_axis() -> None:
    grid = curved(lambda label, *_: [{"A": 10.0, "B": 20.0, "C": 70.0, "D": 40.0}[label]], tuple("ABCD"))
    points = {
        "A": {"p": "x", "q": "1"},
        "B": {"p": "x", "q": "2"},
        "C": {"p": "y", "q": "1"},
        "D": {"p": "y", "q": "2"},
    }
    results = [replace(each, cell=replace(each.cell, points=points[each.cell.points["N"]])) for each in grid.results]
    grid = replace(grid, axes={"p": ("x", "y"), "q": ("1", "2")}, results=tuple(results))
    tuning = analyse(grid, QUICK).tuning
    known = tuning[tuning.rule == "last"].set_index(["axis", "point", "policies"]).held_out
    assert known["p"].to_dict() == pytest.approx({("x", 1): 15, ("x", 2): 20, ("y", 1): 55, ("y", 2): 70})
    assert known["q"].to_dict() == pytest.approx({("1", 1): 40, ("1", 2): 70, ("2", 1): 30, ("2", 2): 40})


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_intervals_that_they_do_not_allow(seeds: int) -> None:
    analysis = analyse(curved(lambda label, task, seed: [5.0 + seed, 7.0 - seed], seeds=seeds), QUICK)
    assert analysis.tuning[["seen_low", "held_out_high"]].isna().all(axis=None)
    common = analysis.gains[analysis.gains.rule == "common"]
    assert common.held_out.isna().all() == common.gain_low.isna().all() == (seeds == 1)
    json.loads(results_json(analysis))
    assert sheet_csv(analysis.gains, analysis).count("\n") == 1 + 2 * len(CHOICES)
