"""Scores of raw returns: by hand, from every kind of file, and mistakes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from dqlab.cli import main
from dqlab.envs import tasks
from dqlab.errors import ConfigError, DataError
from dqlab.tools.score import read_returns, reference_of, score_returns

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


LINES = "".join(f"{value}\n" for value in VALUES)
TABLE = "episode, return\n" + "".join(f"{number},{value}\n" for number, value in enumerate(VALUES))
TEXTS = {"a.txt": LINES, "a.json": json.dumps(VALUES), "a.csv": TABLE, "b.csv": f"returns\n{LINES}"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_editors_write_them(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a byte order mark, as Windows editors and PowerShell leave one; and an array, standard input, numbers."""
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding=encoding)
        assert read_returns([str(tmp_path / name)]).tolist() == VALUES
    assert read_returns([str(tmp_path / "a.csv")], column="episode").tolist() == [0.0, 1.0, 2.0]
    np.save(tmp_path / "a.npy", np.array(VALUES)[:, None])
    monkeypatch.setattr("sys.stdin", io.StringIO("1.5\n\n-2\n"))
    assert read_returns(["-", "7", str(tmp_path / "a.npy")]).tolist() == [1.5, -2.0, 7.0, *VALUES]


MISTAKES: list[tuple[str, str | bytes, str]] = [
    ("a.txt", "\n", "no returns"),
    ("a.txt", "1\ntwo\n", "could not convert string to float: 'two'"),
    ("a.npy", "1", "NumPy"),
    ("a.json", '{"a": 1}', "no plain list"),
    ("a.json", "[[1], [2, 3]]", "as JSON"),
    ("a.json", "[1,", "as JSON"),
    ("a.csv", "a,b\n1,2\n", "Name one with --column: a, b"),
    ("a.csv", "1,2\n3,4\n", "Name one with --column: 0, 1"),
    ("a.csv", "return,return\n1,2\n", "Name one with --column: return, return"),
    ("a.txt", "20000 3412.1\n40000 3500.2\n", "'20000 3412.1' in the first line is no number"),
    ("a.txt", "17\n1,234.5\n", "Expected 1 fields in line 2, saw 2"),
    ("a.txt", "17\n1\u00a0234.5\n", "could not convert"),
    ("a.csv", "1\u00a0234.5\n17\n", "'1.234.5' in the first line is no number"),
    ("a.csv", "1,2x,3\n4,5,6\n", "'2x' in the first line is no number"),
    ("a.csv", "return\n1\x002\n", "it has NUL bytes"),
    ("a.csv", "a,return\n1,\n", "could not convert string to float: ''"),
    ("gap.csv", "return,x\n1,2\n\n,3\n", "could not convert string to float: ''"),
    ("short.csv", "a,return\n1,2\n3\n", "could not convert string to float: ''"),
    ("binary.csv", b"\x00\xff\xfe", "cannot be read as a table"),
    ("long.csv", "return\n" + "1" * 200_000, "only finite returns"),
    ("deep.json", "[" * 100_000, "cannot be read as JSON"),
]


def test_mistakes_in_files(tmp_path: Path) -> None:
    for name, content, message in MISTAKES:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=message) as caught:
            read_returns([str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_names_and_numbers_that_have_no_score() -> None:
    for given, message in (("nan", "Return 2 of 2 is nan"), ("x.csv", "'x.csv' is neither a number nor a file")):
        with pytest.raises(DataError, match=message):
            read_returns(["1", given])
    for task, message in {
        "mujoco-hopper-medium-v0": "mujoco-hopper-medium-v0 has no reference returns",
        "hoper-medium-v2": "Did you mean 'hopper-medium-v2'",
        "walker": "Did you mean 'walker2d'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            score_returns(task, ["1500"])
    assert reference_of("hopper")[1].max_score == 3234.3
