"""Scores of raw returns: by hand, from every kind of file, and mistakes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dqlab.cli import main
from dqlab.envs import tasks
from dqlab.errors import ConfigError, DataError
from dqlab.tools.score import all_references, read_returns, reference_of, score_returns

VALUES = [-20.272305, 3234.3, 1607.0138475]


def test_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Hopper: 100 (R + 20.272305) / 3254.572305; negative numbers are no options, however they are written."""
    assert main(["score", "hopper-medium-v2", "--json", *map(str, VALUES), "-1e3", "-.5"]) == 0
    known = json.loads(capsys.readouterr().out)
    expected = [0.0, 100.0, 50.0, -30.10309, 0.60752]
    assert known["scores"] == pytest.approx(expected, abs=1e-4)
    assert (known["n"], known["mean"]) == (5, pytest.approx(np.mean(expected), abs=1e-4))
    assert known["std"] == pytest.approx(np.std(expected), abs=1e-4)
    assert known["mean"] == pytest.approx(tasks.get("hopper-medium-v2").score(np.mean(known["returns"])))


def test_the_screen_names_the_references(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "walker2d", "4592.3"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("walker2d (all its tasks)", "1.629008 scores 0, 4592.3 scores 100", "D4RL 1.1", "score is linear"):
        assert words in text


def test_every_task_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in listed] == tasks.names()
    for row in all_references():
        scored = score_returns(row["task"], [str(row["min_return"]), str(row["max_return"])])
        assert scored["scores"] == pytest.approx([0.0, 100.0], abs=1e-12)
        assert row["source"] == scored["source"]


def lines(path: Path) -> None:
    path.write_text("\n".join(map(str, VALUES)))


def npy(path: Path) -> None:
    np.save(path, np.array(VALUES)[:, None])


def array(path: Path) -> None:
    path.write_text(json.dumps(VALUES))


def table(path: Path) -> None:
    path.write_text("episode,return\n" + "".join(f"{i},{value}\n" for i, value in enumerate(VALUES)))


def column(path: Path) -> None:
    path.write_text("".join(f"{value}\n" for value in VALUES))


FILES = {"a.txt": lines, "a.npy": npy, "a.json": array, "a.csv": table, "b.csv": column}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    assert read_returns([str(tmp_path / name)]).tolist() == VALUES


def test_standard_input_and_numbers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1.5\n\n-2\n"))
    assert read_returns(["-", "7"]).tolist() == [1.5, -2.0, 7.0]


def text_file(name: str, text: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / name).write_text(text)
        return [str(folder / name)]

    return write


MISTAKES = {
    "nan": (lambda _: ["1", "nan"], "Return 2 of 2 is nan"),
    "infinite": (lambda _: ["-inf"], "Return 1 of 1 is -inf"),
    "none": (text_file("a.txt", "\n"), "no returns"),
    "no file": (lambda _: ["x.csv"], "'x.csv' is neither a number nor a file"),
    "words": (text_file("a.txt", "1\ntwo\n"), "line 2: 'two' is no number"),
    "no array": (text_file("a.npy", "1"), "NumPy"),
    "an object": (text_file("a.json", '{"a": 1}'), "no plain list"),
    "no JSON": (text_file("a.json", "[1,"), "as JSON"),
    "columns": (text_file("a.csv", "a,b\n1,2\n"), "Name one with --column: a, b"),
    "a table": (text_file("a.txt", "20000 3412.1\n40000 3500.2\n"), "line 1: '20000 3412.1' is more than one number"),
    "thousands": (text_file("a.txt", "17\n1,234.5\n"), "line 2: '1,234.5' is more than one number"),
    "no-break space": (text_file("a.txt", "1\u00a0234.5\n"), r"Column 2 has the character NO-BREAK SPACE \(U\+00A0\)"),
    "minus": (text_file("a.txt", "\u22123\n"), r"line 1: .* is no number. Column 1 has .* MINUS SIGN \(U\+2212\)"),
    "a first row that is no header": (text_file("a.csv", "1\u00a0234.5\n17\n"), "line 1: .* is no number.*NO-BREAK"),
    "a gap": (text_file("a.csv", "a,return\n1,\n"), "line 2: no number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(tmp_path: Path, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    with pytest.raises(DataError, match=message):
        read_returns(make(tmp_path))


def test_names() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hopper-medium-v2'"):
        reference_of("hoper-medium-v2")
    with pytest.raises(ConfigError, match="Did you mean 'walker2d'"):
        reference_of("walker")
    assert reference_of("hopper")[1].max_score == 3234.3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("binary.csv", b"\x00\xff\xfe", "cannot be read as CSV"),
        ("long.csv", b"return\n" + b"1" * 200_000, "cannot be read as CSV"),
        ("deep.json", b"[" * 100_000, "cannot be read as JSON"),
        ("gap.csv", b"return,x\n1,2\n\n,3\n", "line 4: no number in column 'return'"),
    ],
)
def test_odd_files_are_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_returns([str(path)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.csv"])
def test_files_as_editors_write_them(tmp_path: Path, name: str, encoding: str) -> None:
    """With a byte order mark, as Windows editors and PowerShell leave one."""
    FILES[name](tmp_path / name)
    (tmp_path / name).write_text((tmp_path / name).read_text(), encoding=encoding)
    assert read_returns([str(tmp_path / name)]).tolist() == VALUES


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("return,x\n1.5,2\n", encoding="utf-8-sig")
    assert read_returns([str(path)]).tolist() == [1.5]
