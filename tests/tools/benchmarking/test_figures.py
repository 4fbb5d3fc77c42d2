"""`benchmarks/history.py compare`: what is compared with what, and what counts as worse."""

from __future__ import annotations

from pathlib import Path

import history
import pytest
from history import machine_kind
from made_benchmarks import benchmark, session

OTHER = "another CPU, 64 cores"


def bench(*args: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["history.py", *map(str, args)])
        return history.main()


def ratios(folder: Path, *values: float, machine: str | None = None) -> list[Path]:
    """A session a day, in each of which one benchmark has one of these ratios."""
    prefix = "other" if machine else "this"
    return [
        session(folder / f"{prefix}-{day}.json", day, benchmark("test_it", 0.01, ratio, replicas=1), machine=machine)
        for day, ratio in enumerate(values, 1)
    ]


def test_a_planted_regression_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ratios(tmp_path, 1.2, 1.5, 1.4, 1.2)
    assert bench("compare", *files) == 0
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "10.0 ms" in line]
    assert [line.split()[2] for line in lines] == ["010101010", "020202020", "030303030", "040404040"]
    assert "WORSE: 20% below the best, 1.50x" in lines[-1]
    assert output.count("WORSE") == 1
    assert "1 of 1 benchmarks got worse by more than 10%" in output
    assert bench("compare", *reversed(files), "--fail") == 1, "the order of the files does not matter"


@pytest.mark.parametrize(
    ("values", "code"),
    [((1.5, 1.36), 0), ((1.5, 1.34), 1), ((1.5, 1.2, 1.5), 0), ((1.5,), 0), ((1.0, 2.0), 0)],
    ids=["within the tolerance", "beyond it", "noise", "alone", "progress"],
)
def test_what_counts_as_worse(values: tuple[float, ...], code: int, tmp_path: Path) -> None:
    assert bench("compare", *ratios(tmp_path, *values), "--fail") == code


def test_kinds_of_machine_and_parameters_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*ratios(tmp_path, 3.0, machine=OTHER), *ratios(tmp_path, 1.0, 1.0)]
    assert bench("compare", *files, "--fail") == 0
    assert OTHER not in capsys.readouterr().out
    assert bench("compare", *files, "--fail", "--machine", "all") == 0
    assert {OTHER, machine_kind()} <= set(capsys.readouterr().out.splitlines())
    assert bench("compare", *files, "--machine", OTHER) == 0
    assert machine_kind() not in capsys.readouterr().out.splitlines()
    small = session(tmp_path / "1.json", 1, benchmark("test_it", 0.01, 2.0, batch=64))
    large = session(tmp_path / "2.json", 2, benchmark("test_it", 0.01, 1.0, batch=256))
    assert bench("compare", small, large, "--fail") == 0


def test_only_the_last_measurements_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("compare", *ratios(tmp_path, *[1.0] * 14)) == 0
    output = capsys.readouterr().out
    assert output.count("1.00x") == 10
    assert "(4 earlier)" in output


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "odd.json").write_text('{"benchmarks": []}')
    for said, files in {
        "pytest benchmarks/ --mlflow": [],
        OTHER: ratios(tmp_path, 1.0, machine=OTHER),
        "cannot be read": ["missing.json"],
        "holds no benchmarks of dqlab": ["odd.json"],
        "holds no benchmarks": [session(tmp_path / "empty.json", 1)],
    }.items():
        assert bench("compare", *files) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "runs").exists(), "looking makes nothing"


def test_figures_as_text() -> None:
    """Three digits; a dash for what was not measured."""
    seconds = {2.0: "2.00 s", 123.4: "123 s", 4321.0: "4320 s", 0.0123: "12.3 ms", 0.9999: "1.00 s", 3e-9: "3.00 ns"}
    counts = {0.238: "0.238", 17.0: "17.0", 999.7: "1.00 k", 12658.0: "12.7 k", 3.2e11: "320 G"}
    assert {value: history.format_seconds(value) for value in seconds} == seconds
    assert {value: history.format_count(value) for value in counts} == counts
    assert (history.format_times(1.5234), history.format_share(0.1234)) == ("1.52x", "12.3%")
    assert history.benchmark_cells(None, {}) == ["-"] * 4
