"""The report: its table, its plots, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_benchmarks import benchmark, session

from dqlab.cli import main
from dqlab.runs import measuring
from dqlab.tools.benchmarks import machine_kind

SAMPLER = {"part": "sampler", "batch": 256, "sampler": "ddpm", "device": "cpu"}
UPDATE = {"part": "update", "batch": 256, "mode": "eager", "device": "cpu", "precision": "float32"}


def sampler(n: int, mode: str, median: float) -> dict[str, object]:
    return benchmark(f"test_sampler[{mode}-{n}]", median, 1.5, 0.4, n_timesteps=n, mode=mode, **SAMPLER)


def report(*args: object) -> int:
    return main(["bench", "report", *map(str, args)])


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks = [sampler(n, mode, n * 1e-3) for n in (20, 5) for mode in ("eager", "compiled")]
    benchmarks += [benchmark(f"test_update[{k}]", 0.02 * k, 1.2, replicas=k, **UPDATE) for k in (1, 4)]
    old = session(tmp_path / "old.json", 1, sampler(5, "eager", 7.0))
    new = session(tmp_path / "new.json", 2, *benchmarks, benchmark("test_rows", 0.5, part="data", rows=1000))
    assert report(new, old, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert f"- Machine: {machine_kind()}\n" in page
    assert "- Versions: torch 2.9.0\n- Commit: 020202020\n- Date: 2026-01-02\n" in page
    header = "| benchmark | n_timesteps | mode | batch | sampler | device | median | per second | ratio | of peak |"
    rows = page[page.index(header) :].splitlines()[2:6]
    assert rows[0] == "| test_sampler[compiled-5] | 5 | compiled | 256 | ddpm | cpu | 5.00 ms | 200 | 1.50x | 40.0% |"
    assert [row.split("|")[2].strip() for row in rows] == ["5", "5", "20", "20"], "numbers are sorted as numbers"
    assert "| test_rows | 1000 | 500 ms | 2.00 | - | - |" in page
    assert "7.00 s" not in page, "the latest counts"
    for name in ("sampler", "update", "roofline"):
        assert is_png(tmp_path / "out" / f"{name}.png")
        assert f"![{name}]({name}.png)" in page
    assert "No plot" not in capsys.readouterr().out


def test_plots_without_data_are_left_out_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = session(tmp_path / "one.json", 1, benchmark("test_update", 0.02, replicas=1, **UPDATE))
    assert report(file, "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["benchmarks.md", "update.png"]
    for told in (capsys.readouterr().out, (tmp_path / "out" / "benchmarks.md").read_text()):
        assert "No plot of the sampler" in told
        assert "No plot of the roofline" in told


def test_a_folder_for_each_of_several_machines(tmp_path: Path) -> None:
    files = [
        session(tmp_path / f"{day}.json", day, benchmark("test_update", 0.02, replicas=1, **UPDATE), machine=name)
        for day, name in enumerate(["A CPU, 2 cores", "B CPU, 4 cores"], 1)
    ]
    assert report(*files, "--machine", "all", "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-cpu-2-cores", "b-cpu-4-cores"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2.0, "2.00 s"),
        (123.4, "123 s"),
        (4321.0, "4320 s"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (4.5e-5, "45.0 us"),
        (3e-9, "3.00 ns"),
    ],
)
def test_durations(value: float, expected: str) -> None:
    assert measuring.format_seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.238, "0.238"), (17.0, "17.0"), (999.7, "1.00 k"), (12658.0, "12.7 k"), (3.2e11, "320 G")]
)
def test_rates(value: float, expected: str) -> None:
    assert measuring.format_count(value) == expected


def test_other_figures() -> None:
    assert measuring.format_times(1.5234) == "1.52x"
    assert measuring.format_share(0.1234) == "12.3%"
    assert (
        measuring.format_seconds(None)
        == measuring.format_count(None)
        == measuring.format_times(None)
        == measuring.format_share(None)
        == "-"
    )
