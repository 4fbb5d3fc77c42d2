"""Scores of raw returns: by hand, from files, and mistakes."""

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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_editors_write_them(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a byte order mark, as Windows editors and PowerShell leave one; and standard input, numbers."""
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{value}\n" for value in VALUES), encoding=encoding)
    monkeypatch.setattr("sys.stdin", io.StringIO("1.5\n\n-2\n"))
    assert read_returns(["-", "7", str(file)]).tolist() == [1.5, -2.0, 7.0, *VALUES]


MISTAKES: list[tuple[bytes, str]] = [
    (b"\n", "no returns"),
    (b"1\ntwo\n", "a.txt, line 2: 'two' is no number. A number a line is read; a table's column: cut"),
    (b"return\n1\n", "line 1: 'return'"),
    (b"20000 3412.1\n40000 3500.2\n", "line 1: '20000 3412.1'"),
    (b"17\n1,234.5\n", "line 2: '1,234.5'"),
    (b"17\n1\xc2\xa0234.5\n", "line 2: '1.234.5'"),
    (b"1\x002\n", "line 1"),
    (b"\x00\xff\xfe", "cannot be read as text"),
    (b"1" * 200_000, "only finite returns"),
]


def test_mistakes_in_files(tmp_path: Path) -> None:
    for content, message in MISTAKES:
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_returns([str(tmp_path / "a.txt")])
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
