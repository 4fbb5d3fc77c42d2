"""Which updates are measured: after a warm-up, never across a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqlab.runs.profile import recorded_window, timed_window
from dqlab.training import Training

FAST = 1e-4


def windows(start: int, plan: Training, seconds: float = FAST) -> tuple[range, range]:
    timed = timed_window(start, plan.steps, plan.next_stop)
    return timed, recorded_window(timed.stop, plan.steps, seconds, plan.next_stop)


@pytest.mark.parametrize(
    ("start", "timed", "recorded"),
    [
        (0, range(20, 70), range(70, 120)),
        (1030, range(1050, 1100), range(1100, 1150)),  # a resumed run
        (940, range(960, 1000), range(1000, 1050)),  # cut short by the log at 1000
    ],
)
def test_windows_of_a_long_run(start: int, timed: range, recorded: range) -> None:
    assert windows(start, Training(log_every=1000)) == (timed, recorded)


def test_slow_updates_are_few() -> None:
    """1.5 s of updates of 0.15 s are 10 of them; of 5 s, one."""
    assert windows(0, Training(), 0.1499)[1] == range(70, 80)
    assert windows(0, Training(), 5.0)[1] == range(70, 71)


def test_short_runs_record_what_there_is() -> None:
    plan = Training(steps=60, log_every=60)
    assert windows(0, plan) == (range(20, 40), range(40, 60))
    assert windows(0, Training(steps=3)) == (range(1, 2), range(2, 3))
    assert not timed_window(0, 2, Training(steps=2).next_stop)
    assert not timed_window(60, 60, plan.next_stop)


def test_logs_are_not_crossed() -> None:
    """Of [20, 70) with a log every 20: 20, 20 and 10 updates; of [40, 90): 20, 20 and 10."""
    assert windows(0, Training(log_every=20, eval_every=40)) == (range(20, 40), range(40, 60))


@given(
    start=st.integers(0, 500),
    left=st.integers(3, 400),
    log_every=st.integers(1, 300),
    eval_every=st.integers(1, 300),
    seconds=st.floats(1e-6, 10.0),
)
def test_windows_are_never_empty_or_out_of_order(
    start: int, left: int, log_every: int, eval_every: int, seconds: float
) -> None:
    plan = Training(steps=start + left, log_every=log_every, eval_every=eval_every)
    timed, recorded = windows(start, plan, seconds)
    assert start < timed.start < timed.stop <= recorded.start < recorded.stop <= plan.steps
    assert len(timed) <= 50
    assert len(recorded) <= 50
    for window in (timed, recorded):
        assert plan.next_stop(window.start) >= window.stop
