"""Selection rules, early stops and learning-rate schedules, by hand; the official code's quirks as they are."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlab.tracking.records import EvaluationRecord
from dqlab.training.model_selection import (
    inverse_permutation,
    kth_lowest,
    last_two,
    official_result,
    patience,
    select_checkpoints,
)
from dqlab.training.plan import cosine_annealing, cosine_official


def evaluated(step: int, score: float, loss: float | None) -> EvaluationRecord:
    record = {"step": step, "return_mean": 40 * score, "return_std": 4.0, "score_mean": score, "score_std": 1.0}
    return cast(EvaluationRecord, {**record, "selection_loss": loss})


RUN = [evaluated(0, 99.0, None)] + [
    evaluated(step, score, loss)
    for step, score, loss in [(10, 1.0, 0.9), (20, 8.0, 0.5), (30, 4.0, 0.7), (40, 6.0, 0.4), (50, 2.0, 0.6)]
]


@pytest.mark.parametrize(("top_k", "step"), [(0, 40), (1, 20), (2, 50), (9, 10)])
def test_offline_takes_the_kth_lowest_loss(top_k: int, step: int) -> None:
    assert select_checkpoints(RUN, "kth_lowest", top_k)["offline"]["step"] == step


def test_all_four_rules() -> None:
    chosen = select_checkpoints(RUN, "kth_lowest", 1)
    assert {rule: row["score_mean"] for rule, row in chosen.items()} == {
        "last": 2.0,
        "best_online": 8.0,  # the untrained policy's 99 does not count
        "offline": 8.0,
        "mean_last_10": pytest.approx(4.2),
    }
    assert chosen["best_online"]["step"] == 20
    assert chosen["mean_last_10"]["step"] is None


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_no_rule_considers_a_score_that_is_not_finite(score: float) -> None:
    """As earlier versions recorded them."""
    chosen = select_checkpoints([*RUN, evaluated(60, score, 0.1)], "kth_lowest", 0)
    assert chosen == select_checkpoints(RUN, "kth_lowest", 0)


def test_the_mean_is_over_the_last_ten() -> None:
    many = [evaluated(step, float(step), 1.0) for step in range(1, 21)]
    assert select_checkpoints(many, "kth_lowest", 0)["mean_last_10"]["score_mean"] == 15.5


def test_the_official_index_is_the_inverse_permutation() -> None:
    """Losses 0.9 0.5 0.7 0.4 0.6: argsort is 3 1 4 2 0; == 1 holds at index 1, == 2 at index 3."""
    losses = [0.9, 0.5, 0.7, 0.4, 0.6]
    assert [inverse_permutation(losses, k) for k in range(5)] == [4, 1, 3, 0, 2]
    assert [kth_lowest(losses, k) for k in range(5)] == [3, 1, 4, 2, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20, unique=True), st.integers(0, 25))
def test_both_rules_agree_on_a_monotone_rising_curve(losses: list[float], k: int) -> None:
    assert inverse_permutation(sorted(losses), k) == kth_lowest(sorted(losses), k)


def test_early_stops() -> None:
    assert [last_two([0.9, 0.8, 0.7][:n]) for n in (1, 2, 3)] == [False] * 3
    assert last_two([0.9, 0.8, 0.81])
    assert last_two([101.0])  # the official code compares the first loss with 100
    falling_then_flat = [0.9, 0.5, 0.6, 0.7, 0.6, 0.55, 0.6]
    assert not patience(falling_then_flat[:6])
    assert patience(falling_then_flat)
    assert not patience([1 - 0.01 * i for i in range(50)])


def test_learning_rates() -> None:
    assert cosine_annealing(0, 100, 10) == 1.0
    assert cosine_annealing(50, 100, 10) == pytest.approx(0.5)
    assert cosine_annealing(100, 100, 10) == pytest.approx(0.0)
    paper = cosine_official(1_999_999, 2_000_000, 50_000)  # 39 of 2000 epochs
    assert paper == pytest.approx(0.5 * (1 + np.cos(np.pi * 39 / 2000)))
    assert paper > 0.999


def test_the_official_result_file() -> None:
    written = json.loads(official_result(evaluated(50_000, 8.0, 0.5), "online"))
    assert written == {
        "model selection": "online",
        "epoch": 50.0,
        "best normalized score avg": 8.0,
        "best normalized score std": 1.0,
        "best raw score avg": 320.0,
        "best raw score std": 4.0,
    }
