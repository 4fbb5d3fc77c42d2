"""Writes a grid's report: everything or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from dqlab.analysis.report.bibtex import bibtex_file
from dqlab.analysis.report.exports import aggregates_csv, frame_csv, latex_tables, results_json, scores_csv
from dqlab.analysis.report.figures import draw_figures, figure_bytes
from dqlab.analysis.report.inspection import inspection_figures
from dqlab.analysis.report.page import report_page
from dqlab.analysis.report.tables import aggregate_table, gap_table, rich_table
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import Analysis, analyse
from dqlab.files import new_folder
from dqlab.printing import Console

MARK = "results.json"
"""The file by which a report's folder is known."""
FILES: Mapping[str, Callable[[Analysis], str]] = {
    "scores.csv": lambda analysis: scores_csv(analysis.results),
    "aggregates.csv": aggregates_csv,
    "checkpoints.csv": lambda analysis: frame_csv(analysis, "gains"),
    "tuning.csv": lambda analysis: frame_csv(analysis, "tuning"),
    MARK: results_json,
    "tables.tex": latex_tables,
    "references.bib": lambda analysis: bibtex_file(analysis.results),
}


def write_report(results: GridResults, settings: Report, folder: Path, analysis: Analysis | None = None) -> list[Path]:
    """Write the report of a grid, as far as it has come; an older one is replaced at once, or stays as it is.

    Args:
        results: cells with results, failures, and what is pending.
        settings: what is shown.
        folder: of the report itself: `index.html`, `figures/`, `scores.csv`, `aggregates.csv`, `checkpoints.csv`,
            `tuning.csv`, `results.json`, `tables.tex`, `references.bib`.
        analysis: theirs, where there is one already.

    Returns:
        The files, the page first.

    Raises:
        RunError: the folder holds something else than a report.
    """
    analysis = analysis or analyse(results, settings)
    drawn = draw_figures(analysis) | inspection_figures(analysis)
    files = {"index.html": report_page(analysis, drawn).encode()}
    files |= {name: write(analysis).encode() for name, write in FILES.items()}
    for name, figure in drawn.items():
        files |= {f"figures/{name}.{kind}": figure_bytes(figure, kind) for kind in ("png", "pdf")}
    with new_folder(folder, is_report) as new:
        (new / "figures").mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
    return [folder / name for name in files]


def is_report(folder: Path) -> bool:
    """Whether a folder is a report's."""
    return (folder / MARK).is_file()


SHOWN = 40


def report_and_print(results: GridResults, settings: Report, folder: Path, console: Console) -> None:
    """Write the report, and say what it says."""
    with console.status("computing intervals"):
        analysis = analyse(results, settings)
        write_report(results, settings, folder, analysis)
    shown, gaps = aggregate_table(analysis, settings.rules, ("iqm",)), gap_table(analysis)
    columns = (*shown.columns, *gaps.columns[1:])
    console.print(rich_table(replace(shown, caption=f"{results.name}: {shown.caption}", columns=columns), SHOWN))
    for caution in analysis.cautions:
        console.print(Text(f"! {caution}"), soft_wrap=True)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)
