"""Writes a grid's report: everything or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dqlab.ablation.report.bibtex import bibtex
from dqlab.ablation.report.figures import Drawn, draw, image
from dqlab.ablation.report.latex import latex
from dqlab.ablation.report.page import page
from dqlab.ablation.report.record import record
from dqlab.ablation.report.sheets import aggregates_sheet, scores_sheet
from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics import analyse
from dqlab.ablation.statistics.analysis import Analysis
from dqlab.swap import new_folder

MARK = "results.json"
"""The file by which a report's folder is known."""

Writer = Callable[[GridResults, Analysis, Report, Mapping[str, Drawn]], str]
FILES: Mapping[str, Writer] = {
    "index.html": page,
    "scores.csv": lambda results, analysis, settings, drawn: scores_sheet(results),
    "aggregates.csv": lambda results, analysis, settings, drawn: aggregates_sheet(results, analysis),
    MARK: lambda results, analysis, settings, drawn: record(results, analysis, settings),
    "tables.tex": lambda results, analysis, settings, drawn: latex(results, analysis, settings),
    "references.bib": lambda results, analysis, settings, drawn: bibtex(results),
}


def write_report(results: GridResults, settings: Report, folder: Path, analysis: Analysis | None = None) -> list[Path]:
    """Write the report of a grid, as far as it has come; an older one is replaced at once, or stays as it is.

    Args:
        results: cells with results, failures, and what is pending.
        settings: what is shown.
        folder: of the report itself: `index.html`, `figures/`, `scores.csv`, `aggregates.csv`, `results.json`,
            `tables.tex`, `references.bib`.
        analysis: theirs, where there is one already.

    Returns:
        The files, the page first.

    Raises:
        RunError: the folder holds something else than a report.
    """
    analysis = analysis or analyse(results, settings)
    drawn = draw(results, analysis, settings.rules)
    files = {name: writer(results, analysis, settings, drawn).encode() for name, writer in FILES.items()}
    for name, figure in drawn.items():
        files |= {f"figures/{name}.{kind}": image(figure, kind) for kind in ("png", "pdf")}
    with new_folder(folder, is_report) as new:
        (new / "figures").mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
    return [folder / name for name in files]


def is_report(folder: Path) -> bool:
    """Whether a folder is a report's."""
    return (folder / MARK).is_file()
