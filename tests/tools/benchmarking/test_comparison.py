"""What is compared with what, and what counts as worse."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_benchmarks import benchmark, session

from dqlab.cli import main
from dqlab.tools.benchmarks import machine_kind

OTHER = "another CPU, 64 cores"


def compare(*args: object) -> int:
    return main(["bench", "compare", *map(str, args)])


def ratios(folder: Path, *values: float, machine: str | None = None) -> list[Path]:
    """A session a day, in each of which one benchmark has one of these ratios."""
    prefix = "other" if machine else "this"
    return [
        session(folder / f"{prefix}-{day}.json", day, benchmark("test_it", 0.01, ratio, replicas=1), machine=machine)
        for day, ratio in enumerate(values, 1)
    ]


def test_a_planted_regression_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ratios(tmp_path, 1.2, 1.5, 1.4, 1.2)
    assert compare(*files) == 0
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "10.0 ms" in line]
    assert [line.split()[2] for line in lines] == ["010101010", "020202020", "030303030", "040404040"]
    assert "WORSE: 20% below the best, 1.50x" in lines[-1]
    assert output.count("WORSE") == 1
    assert "1 of 1 benchmarks got worse by more than 10%" in output
    assert compare(*files, "--fail") == 1
    assert compare(*reversed(files), "--fail") == 1, "the order of the files does not matter"


@pytest.mark.parametrize("values", [(1.5, 1.425), (1.5, 1.36), (1.5, 1.2, 1.5), (1.5,), (1.0, 2.0)])
def test_noise_and_progress_are_not(values: tuple[float, ...], tmp_path: Path) -> None:
    assert compare(*ratios(tmp_path, *values), "--fail") == 0


def test_just_beyond_the_tolerance_is_flagged(tmp_path: Path) -> None:
    assert compare(*ratios(tmp_path, 1.5, 1.34), "--fail") == 1


def test_kinds_of_machine_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*ratios(tmp_path, 3.0, machine=OTHER), *ratios(tmp_path, 1.0, 1.0)]
    assert compare(*files, "--fail") == 0
    assert OTHER not in capsys.readouterr().out
    assert compare(*files, "--fail", "--machine", "all") == 0
    assert {OTHER, machine_kind()} <= set(capsys.readouterr().out.splitlines())
    assert compare(*files, "--machine", OTHER) == 0
    assert machine_kind() not in capsys.readouterr().out.splitlines()


def test_a_benchmark_with_other_parameters_is_another_one(tmp_path: Path) -> None:
    small = session(tmp_path / "1.json", 1, benchmark("test_it", 0.01, 2.0, batch=64))
    large = session(tmp_path / "2.json", 2, benchmark("test_it", 0.01, 1.0, batch=256))
    assert compare(small, large, "--fail") == 0


def test_only_the_last_measurements_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*ratios(tmp_path, *[1.0] * 14)) == 0
    output = capsys.readouterr().out
    assert output.count("1.00x") == 10
    assert "(4 earlier)" in output


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line of a mistake."""
    assert compare(*args) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    return said[0]


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "pytest benchmarks/ --mlflow" in fails(capsys)
    assert not (tmp_path / "runs").exists(), "looking makes nothing"
    assert OTHER in fails(capsys, *ratios(tmp_path, 1.0, machine=OTHER))
    assert "cannot be read" in fails(capsys, "missing.json")
    (tmp_path / "odd.json").write_text('{"benchmarks": []}')
    assert "holds no benchmarks of dqlab" in fails(capsys, "odd.json")
    assert "holds no benchmarks" in fails(capsys, session(tmp_path / "empty.json", 1))
