"""What a person sees: the caveat beside every score, and what others have written as text, obeyed by nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Done, Run
from made_folders import write_run
from matplotlib.image import imread
from rich.table import Table
from rich.text import Text

from dqlab.errors import printable, printable_names
from dqlab.printing import Console, format_points
from dqlab.tracking.display import Display, draw_score_curve, summary_table
from dqlab.training.model_selection import select_checkpoints

NASTY = "\x1b[2J\x1b]0;pwned\x07[bold red]x[/bold red] :smile: \u202egnp.exe\x9b1m"
SHOWN = r"\x1b[2J\x1b]0;pwned\x07[bold red]x[/bold red] :smile: \u202egnp.exe\x9b1m"
LONG = "y" * 5_000_000


def harmless(done: Done) -> str:
    said = done.stdout + done.stderr
    assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert len(said) < 30_000
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("door", ["info", "verify", "convert"])
def test_names_in_data_files(door: str, in_process: Run, tmp_path: Path) -> None:
    arrays = {"observations": np.zeros((40, 17)), "actions": np.zeros((40, 6)), "terminals": np.arange(40) % 20 == 19}
    name = NASTY.replace("/", "")
    odd = {name: np.zeros(1), LONG[:60_000]: np.zeros(1)}
    np.savez(tmp_path / "lacking.npz", **arrays, **odd)
    about = {f"metadata/{name}": NASTY, f"metadata/{LONG[:60_000]}": LONG[:100_000]}
    contents = {"lacking": arrays | {name: 1}, "whole": arrays | about | {"rewards": np.ones(40)}}
    for file, known in contents.items():
        with h5py.File(tmp_path / f"{file}.hdf5", "w") as opened:
            for key, value in known.items():
                opened[key] = value
    for file in ("lacking.hdf5", "lacking.npz", "whole.hdf5"):
        done = in_process("data", door, file, *(["out.npz"] if door == "convert" else []))
        said = harmless(done)
        if file.startswith("lacking"):
            assert done.returncode != 0
            assert r"\x1b[2J\x1b]0;pwned\x07[bold red]x" in said
            assert "has no 'rewards'" in said


def test_what_a_run_folder_says_of_itself(in_process: Run, tmp_path: Path) -> None:
    for run, label in (("one", NASTY), ("two", "[/]"), ("three", "plain")):
        facts = json.loads((write_run(tmp_path / run) / "run.json").read_text())
        facts["replicas"] = {"seed-0": {"seed": 0, "cell": label, "points": {}, "set": {}}}
        (tmp_path / run / "run.json").write_text(json.dumps(facts))
        (tmp_path / run / "config.gin").write_text(f"A.x = {label!r}\n")
        summary = tmp_path / run / "seed-0" / "summary.json"
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "task": NASTY, "caveat": NASTY}))
    done = in_process("compare", "one", "two", "three")
    assert done.returncode == 0, done.stderr
    assert "[bold red]" in harmless(done)
    (tmp_path / "one" / "run.json").write_text(json.dumps({**facts, "task": LONG}))
    harmless(in_process("compare", "one"))


def test_a_console_shows_markup_and_control_characters_as_they_are() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system="truecolor", highlight=False)
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    console.print(table)
    console.print(NASTY)
    assert out.getvalue().count(SHOWN) == 4
    console.print(Text(NASTY))
    assert out.getvalue().count(SHOWN.replace(r"\x07", "")) == 1, "rich itself leaves out a bell"
    assert not [code for code in ("\x1b]0", "\x1b[2J") if code in out.getvalue()]


def test_lines_break_between_words_on_a_terminal_alone_and_paths_nowhere() -> None:
    text = f"a word and /{'folder/' * 6}file-name"
    for terminal, shown in ((False, f"{text}\n"), (True, "a word and\n" + text[11:] + "\n")):
        out = io.StringIO()
        Console(file=out, width=20, force_terminal=terminal, color_system=None).say(text)
        assert out.getvalue() == shown


def test_what_is_printable() -> None:
    points = [format_points(value) for value in (12.34, -0.04, -3.21, float("nan"))]
    assert [*points, format_points(0.26, signed=True)] == ["12.3", "0.0", "\u22123.2", "\u2013", "+0.3"]
    for text in ("plain\ttext\nhere", "über 世界 ✗"):
        assert printable(text) == text
    assert printable(NASTY) == SHOWN
    assert printable(LONG, 20) == "yyyyyyyyyy ... yyyyyyyyyy (5,000,000 characters)"
    assert printable_names(["b\n", "a", LONG]).startswith(r"a, b\n, yyyy")
    assert len(printable_names([LONG] * 100)) < 5_000
    assert printable_names(map(str, range(100))).endswith(", ... (100 in all)")


def test_a_spinner_is_nothing_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an empty line either, as rich would leave; in a process that has imported ipykernel it is one."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # imported is not run
    file, terminal = io.StringIO(), io.StringIO()
    with Console(file=file).status("reading") as status:
        status.update("still reading")
    with Console(file=terminal, force_terminal=True, _environ={"TERM": "xterm"}).status("reading"):
        pass
    assert (file.getvalue(), "reading" in terminal.getvalue()) == ("", True)


NAMES = ("step", "return_mean", "return_std", "score_mean", "score_std", "selection_loss")
EVALUATIONS: list[Any] = [
    dict(zip(NAMES, row, strict=True))
    for row in ((0, 0.0, 0.0, 0.0, 0.0, None), (10, 90.0, 3.0, 5.0, 1.0, 0.1), (20, 180.0, 3.0, 10.0, 1.0, 0.05))
]


def show(terminal: bool, quiet: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160, color_system=None, _environ={"TERM": "xterm"})
    with Display(100, "not D4RL", quiet, console) as display:
        display.logged(10, {"actor/bc_loss": 0.25, "critic/loss": 3.0, "updates_per_second": 12.34})
        display.logged(20, {"actor/trust_loss": 0.5, "actor/bc_loss": 9.0})
        display.logged(30, {"actor/trust_loss": 0.25})
        display.logged(40, {"critic/loss": 1.0, "critic/target_q": 2.0, "actor/loss": 0.5, "value/loss": 0.125})
        display.evaluated(10, {"seed 7": EVALUATIONS[1]})
    return text.getvalue()


def test_progress_is_live_on_a_terminal_plain_lines_elsewhere_and_may_be_quiet() -> None:
    assert show(terminal=False).strip().splitlines() == [
        "step       10 of 100  12.3 updates/s  L_bc 0.25  critic 3",
        "step       20 of 100  0.0 updates/s  L_trust 0.5",
        "step       30 of 100  0.0 updates/s  L_trust 0.25",
        "step       40 of 100  0.0 updates/s  critic 1  actor 0.5  value 0.125",
        "step       10  seed 7  score    5.0 +- 1.0 (not D4RL)  return 90",
    ]
    live = show(terminal=True)
    for words in ("\x1b[", "40/100", "updates/s", "value 0.125", "score 5.0 (not D4RL)"):
        assert words in live
    assert [show(terminal, quiet=True).strip() for terminal in (True, False)] == ["", ""]


@pytest.mark.parametrize(("count", "spread"), [(1, "-"), (2, "2.5")])
def test_a_mean_of_one_evaluation_has_no_spread(count: int, spread: str) -> None:
    done = EVALUATIONS[: 1 + count]
    summary = {"selection": select_checkpoints(done, "kth_lowest", 0), "evaluations": done}
    table = summary_table({"seed 7": summary}, {"score_mean": 1.0, "return_mean": 2.0}, "")
    rules, spreads = (list(column.cells) for column in table.columns[1:5:3])
    assert dict(zip(rules, spreads, strict=True))[f"mean-last-10 (of {count})"] == spread
    assert {"last", f"offline (loss no. 1 of {count})", "best-online"} < set(rules)
    assert spreads[0] == "1.0"


@pytest.mark.parametrize(
    ("is_d4rl", "caveat", "scale"), [(True, "", "D4RL-normalised"), (False, "ours", "normalised, ours")]
)
def test_a_score_is_called_d4rls_for_its_own_data_only(is_d4rl: bool, caveat: str, scale: str) -> None:
    data = {"score_mean": 1.0, "return_mean": 2.0, "is_d4rl": is_d4rl}
    assert str(summary_table({}, data, caveat).title).startswith(f"Scores ({scale}) by")


def test_the_curve_is_a_png_of_some_size(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    draw_score_curve(EVALUATIONS, select_checkpoints(EVALUATIONS, "kth_lowest", 0), "title", path)
    image = imread(path)
    assert min(image.shape[:2]) > 400
    assert image[..., :3].std() > 0.05
