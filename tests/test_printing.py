"""What others have written reaches the terminal as text: bounded, obeyed by nothing."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Done, Run
from made_folders import write_run
from rich.table import Table
from rich.text import Text

from dqlab.errors import printable, printable_names
from dqlab.printing import Console

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
    with h5py.File(tmp_path / "lacking.hdf5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file[NASTY.replace("/", "")] = 1
    np.savez(tmp_path / "lacking.npz", **arrays, **{NASTY.replace("/", ""): np.zeros(1), LONG[:60_000]: np.zeros(1)})
    with h5py.File(tmp_path / "whole.hdf5", "w") as file:
        for name, array in {**arrays, "rewards": np.ones(40)}.items():
            file[name] = array
        file[f"metadata/{NASTY.replace('/', '')}"] = NASTY
        file["metadata/" + LONG[:60_000]] = LONG[:100_000]
    for name in ("lacking.hdf5", "lacking.npz", "whole.hdf5"):
        done = in_process("data", door, name, *(["out.npz"] if door == "convert" else []))
        said = harmless(done)
        if name.startswith("lacking"):
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
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system="truecolor", highlight=False)
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    console.print(table)
    console.print(NASTY)
    assert out.getvalue().count(SHOWN) == 4
    console.print(Text(NASTY))
    assert out.getvalue().count(SHOWN.replace(r"\x07", "")) == 1, "rich itself leaves out a bell"
    assert "\x1b]0" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_what_is_printable() -> None:
    assert printable("plain\ttext\nhere") == "plain\ttext\nhere"
    assert printable("über 世界 ✗") == "über 世界 ✗"
    assert printable(NASTY) == SHOWN
    assert printable(LONG, 20) == "yyyyyyyyyy ... yyyyyyyyyy (5,000,000 characters)"
    assert printable_names(["b\n", "a", LONG]).startswith(r"a, b\n, yyyy")
    assert len(printable_names([LONG] * 100)) < 5_000
    assert printable_names(map(str, range(100))).endswith(", ... (100 in all)")


def test_a_spinner_is_nothing_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an empty line either, as rich would leave."""
    file = StringIO()
    with Console(file=file).status("reading") as status:
        status.update("still reading")
    assert file.getvalue() == ""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # imported is not run
    shown = StringIO()
    with Console(file=shown, force_terminal=True, _environ={"TERM": "xterm"}).status("reading"):
        pass
    assert "reading" in shown.getvalue()
