"""Selection rules, early stops and learning-rate schedules, by hand; the official code's quirks as they are."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlab.tracking.records import EvaluationRecord
from dqlab.training import Training
from dqlab.training.model_selection import (
    inverse_permutation,
    kth_lowest,
    last_two,
    official_result,
    patience,
    select_checkpoints,
)
from dqlab.training.plan import cosine_official


def evaluated(step: int, score: float, loss: float | None) -> EvaluationRecord:
    record = {"step": step, "return_mean": 40 * score, "return_std": 4.0, "score_mean": score, "score_std": 1.0}
    return cast(EvaluationRecord, {**record, "selection_loss": loss})


LOSSES = [0.9, 0.5, 0.7, 0.4, 0.6]
RUN = [evaluated(0, 99.0, None)]
RUN += [evaluated(*each) for each in zip((10, 20, 30, 40, 50), (1.0, 8.0, 4.0, 6.0, 2.0), LOSSES, strict=True)]


@pytest.mark.parametrize("odd", [None, float("nan"), float("inf")])
def test_all_four_rules(odd: float | None) -> None:
    """The untrained policy's 99 does not count, nor a score that is not finite, as earlier versions recorded them."""
    run = RUN if odd is None else [*RUN, evaluated(60, odd, 0.1)]
    chosen = select_checkpoints(run, "kth_lowest", 1)
    found = {rule: (row["step"], row["score_mean"]) for rule, row in chosen.items()}
    mean = (None, pytest.approx(4.2))
    assert found == {"last": (50, 2.0), "best_online": (20, 8.0), "offline": (20, 8.0), "mean_last_10": mean}
    offline = [select_checkpoints(run, "kth_lowest", top_k)["offline"]["step"] for top_k in (0, 1, 2, 9)]
    assert offline == [40, 20, 50, 10]


def test_the_mean_is_over_the_last_ten() -> None:
    many = [evaluated(step, float(step), 1.0) for step in range(1, 21)]
    assert select_checkpoints(many, "kth_lowest", 0)["mean_last_10"]["score_mean"] == 15.5


def test_the_official_index_is_the_inverse_permutation() -> None:
    """Of losses 0.9 0.5 0.7 0.4 0.6 argsort is 3 1 4 2 0; == 1 holds at index 1, == 2 at index 3."""
    assert [inverse_permutation(LOSSES, k) for k in range(5)] == [4, 1, 3, 0, 2]
    assert [kth_lowest(LOSSES, k) for k in range(5)] == [3, 1, 4, 2, 0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20, unique=True), st.integers(0, 25))
def test_both_rules_agree_on_a_monotone_rising_curve(losses: list[float], k: int) -> None:
    assert inverse_permutation(sorted(losses), k) == kth_lowest(sorted(losses), k)


def test_early_stops() -> None:
    """The official code compares the first loss with 100."""
    curves = [0.9], [0.9, 0.8], [0.9, 0.8, 0.7], [0.9, 0.8, 0.81], [101.0]
    assert [*map(last_two, curves)] == [False, False, False, True, True]
    falling_then_flat = [0.9, 0.5, 0.6, 0.7, 0.6, 0.55, 0.6]
    curves = falling_then_flat[:6], falling_then_flat, [1 - 0.01 * i for i in range(50)]
    assert [*map(patience, curves)] == [False, True, False]


def test_learning_rates() -> None:
    """Cosine: 1 where a network's phase begins, 1/2 halfway, 0 at its end; over the whole run by default."""
    factor = Training(steps=100).factor("cosine")
    for first, last, steps in ((0, None, (0, 50, 100)), (20, None, (20, 60, 100)), (20, 40, (20, 30, 40))):
        assert [factor(step, first, last) for step in steps] == pytest.approx([1.0, 0.5, 0.0])
    assert factor(10, 0, 1000) == factor(10, 0, None)
    paper = cosine_official(1_999_999, 2_000_000, 50_000)  # 39 of 2000 epochs
    assert paper == pytest.approx(0.5 * (1 + np.cos(np.pi * 39 / 2000)))
    assert paper > 0.999


def test_the_official_result_file() -> None:
    assert json.loads(official_result(evaluated(50_000, 8.0, 0.5), "online")) == {
        "model selection": "online",
        "epoch": 50.0,
        "best normalized score avg": 8.0,
        "best normalized score std": 1.0,
        "best raw score avg": 320.0,
        "best raw score std": 4.0,
    }
