"""What `dqlab bench report` writes: a Markdown table a part, and plots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dqlab.files import write_text
from dqlab.runs.profile import page
from dqlab.tools.benchmarking.history import History
from dqlab.tools.benchmarking.plots import draw_benchmarks
from dqlab.tools.benchmarking.record import NONE, BenchmarkRecord, group_by


def write_reports(by_machine: Mapping[str, Sequence[History]], folder: Path) -> list[str]:
    """One report a kind of machine, each in a folder of its own if there are several; returns what to tell the user."""
    several = len(by_machine) > 1
    said = []
    for machine, histories in by_machine.items():
        own = folder / re.sub(r"\W+", "-", machine.lower()).strip("-") if several else folder
        said += write_benchmark_report([history.latest for history in histories], own)
    return said


def write_benchmark_report(records: Sequence[BenchmarkRecord], folder: Path) -> list[str]:
    """`benchmarks.md` and the plots for which there are data, from the latest figures of one kind of machine.

    Args:
        records: one a benchmark.
        folder: is made.

    Returns:
        Lines for the user: what was written, and what was left out.
    """
    drawn, left_out = draw_benchmarks(records, folder)
    parts = group_by(sorted(records, key=lambda record: record.part), lambda record: record.part)
    lines = ["# Benchmarks", "", *_header(records), ""]
    for part, members in parts.items():
        lines += [f"## {part.capitalize()}", "", *_table(members), ""]
    for path in drawn:
        lines += [f"![{path.stem}]({path.name})", ""]
    missing = [f"No plot of the {name}: nothing of it was measured." for name in left_out]
    page = folder / "benchmarks.md"
    write_text(page, "\n".join([*lines, *missing]).rstrip() + "\n")
    return [f"Wrote {path}" for path in (page, *drawn)] + missing


def _header(records: Sequence[BenchmarkRecord]) -> list[str]:
    """Machine, versions, commit and date; where the benchmarks differ, each value with how many it belongs to."""
    rows = {
        "Machine": [record.machine for record in records],
        "Threads": [f"{record.figures['threads']:.0f}" if "threads" in record.figures else "-" for record in records],
        "Versions": [_versions(record) for record in records],
        "Commit": [record.commit for record in records],
        "Date": [record.when.strftime("%Y-%m-%d") for record in records],
    }
    return [f"- {name}: {_distinct(values)}" for name, values in rows.items()]


def _versions(record: BenchmarkRecord) -> str:
    prefix = "version."
    versions = {name.removeprefix(prefix): value for name, value in record.facts.items() if name.startswith(prefix)}
    return ", ".join(f"{name} {value}" for name, value in versions.items() if value != NONE)


def _distinct(values: Sequence[str]) -> str:
    counted = Counter(values)
    if len(counted) == 1:
        return values[0]
    return "; ".join(f"{value} ({number} of the benchmarks)" for value, number in counted.items())


def _table(records: Sequence[BenchmarkRecord]) -> list[str]:
    """A Markdown table: every parameter of this part a column, then the figures."""
    names = list(dict.fromkeys(name for record in records for name in record.conditions))
    rows = [
        [record.name.rpartition("::")[2], *(str(record.conditions.get(name, "")) for name in names), *_figures(record)]
        for record in sorted(records, key=lambda record: _order(record, names))
    ]
    ruler = [":--", *(["--:"] * (len(names) + len(page.HEADINGS)))]
    return [_line(cells) for cells in (["benchmark", *names, *page.HEADINGS], ruler, *rows)]


def _order(record: BenchmarkRecord, names: Sequence[str]) -> list[tuple[bool, float, str]]:
    """By the parameters' values, numbers as numbers."""
    values = [record.conditions.get(name, "") for name in names]
    return [(isinstance(v, str), 0.0 if isinstance(v, str) else float(v), str(v)) for v in values]


def _figures(record: BenchmarkRecord) -> list[str]:
    return page.benchmark_cells(record.median, record.figures)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
