"""What a person sees: live on a terminal, plain lines elsewhere, nothing when quiet; the caveat beside every score."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dqlab.tracking.display import Display, draw_score_curve, summary_table
from dqlab.training.model_selection import select_checkpoints


def evaluations() -> list[Any]:
    names = ("step", "return_mean", "return_std", "score_mean", "score_std", "selection_loss")
    trained = [(step, 9.0 * step, 3.0, step / 2, 1.0, 1 / step) for step in (10, 20)]
    return [dict(zip(names, row, strict=True)) for row in [(0, 0.0, 0.0, 0.0, 0.0, None), *trained]]


def show(terminal: bool, quiet: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160, color_system=None, _environ={"TERM": "xterm"})
    with Display(100, "not D4RL", quiet, console) as display:
        display.logged(10, {"actor/bc_loss": 0.25, "critic/loss": 3.0, "updates_per_second": 12.34})
        display.evaluated(10, {"seed 7": evaluations()[1]})
    return text.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = show(terminal=False).strip().splitlines()
    assert lines == [
        "step       10 of 100  12.3 updates/s  L_bc 0.25  critic 3",
        "step       10  seed 7  score    5.0 +- 1.0 (not D4RL)  return 90",
    ]


def test_live_progress_on_a_terminal() -> None:
    text = show(terminal=True)
    assert "\x1b[" in text
    for words in ("10/100", "12.3 updates/s", "L_bc 0.25", "score 5.0 (not D4RL)"):
        assert words in text


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet(terminal: bool) -> None:
    assert show(terminal, quiet=True).strip() == ""


@pytest.mark.parametrize(("count", "spread"), [(1, "-"), (2, "2.5")])
def test_a_mean_of_one_evaluation_has_no_spread(count: int, spread: str) -> None:
    done = evaluations()[: 1 + count]
    selection = select_checkpoints(done, "kth_lowest", 0)
    summary = {"selection": selection, "evaluations": done}
    table = summary_table({"seed 7": summary}, {"score_mean": 1.0, "return_mean": 2.0}, "")
    rules, spreads = (list(column.cells) for column in table.columns[1:5:3])
    assert dict(zip(rules, spreads, strict=True))[f"mean-last-10 (of {count})"] == spread
    assert f"offline (loss no. 1 of {count})" in rules
    assert spreads[0] == "1.0"


@pytest.mark.parametrize(
    ("is_d4rl", "caveat", "title"),
    [(True, "", "Scores (D4RL-normalised) by"), (False, "not D4RL", "Scores (normalised, not D4RL) by")],
)
def test_a_score_is_called_d4rls_for_its_own_data_only(is_d4rl: bool, caveat: str, title: str) -> None:
    data = {"score_mean": 1.0, "return_mean": 2.0, "is_d4rl": is_d4rl}
    assert str(summary_table({}, data, caveat).title).startswith(title)


def test_the_curve_is_a_png_of_some_size(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = tmp_path / "curve.png"
    chosen = select_checkpoints(evaluations(), "kth_lowest", 0)
    draw_score_curve(evaluations(), chosen, "title", path)
    image = imread(path)
    assert min(image.shape[:2]) > 400
    assert image[..., :3].std() > 0.05
