"""Writes a grid's report: everything or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dqlab.analysis.report.bibtex import bibtex_file
from dqlab.analysis.report.exports import aggregates_csv, latex_tables, results_json, scores_csv
from dqlab.analysis.report.figures import draw_figures, figure_bytes
from dqlab.analysis.report.page import report_page
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import Analysis, analyse
from dqlab.envs.caveats import score_or_return
from dqlab.files import new_folder
from dqlab.printing import Console

MARK = "results.json"
"""The file by which a report's folder is known."""
FILES: Mapping[str, Callable[[Analysis], str]] = {
    "scores.csv": lambda analysis: scores_csv(analysis.results),
    "aggregates.csv": aggregates_csv,
    MARK: results_json,
    "tables.tex": latex_tables,
    "references.bib": lambda analysis: bibtex_file(analysis.results),
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
    drawn = draw_figures(analysis)
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
    with console.status("computing intervals") if console.is_terminal else nullcontext():
        analysis = analyse(results, settings)
        write_report(results, settings, folder, analysis)
    console.print(score_table(analysis))
    for caution in analysis.cautions:
        console.print(Text(f"! {caution}"), soft_wrap=True)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


def score_table(analysis: Analysis) -> Table:
    """Interquartile means by selection rule, with intervals, of every setting."""
    results, settings = analysis.results, analysis.settings
    note = f" ({results.caveat})" if results.caveat else ""
    said = f"interquartile mean {score_or_return(results.caveat)}{note} with {100 * settings.confidence:g}% interval"
    table = Table(title=f"{results.name}: {said}, by selection rule", title_justify="left")
    table.add_column("cell")
    figures = [(rule.replace("_", "-"), rule, "iqm") for rule in settings.rules]
    figures.append(("best-online minus last (mean)", "best_online", "over_last"))
    for head in ("runs", *(head for head, _, _ in figures)):
        table.add_column(head, justify="right")
    shown = list(results.labels[:SHOWN])
    complete = analysis.scores.dropna().groupby(level=["rule", "setting"]).size()
    columns = [
        [_text(*numbers) for numbers in analysis.figure(rule, metric).reindex(shown).itertuples(index=False)]
        for _, rule, metric in figures
    ]
    for label, *values in zip(shown, *columns, strict=True):
        runs = int(complete.get((settings.rules[0], label), 0)) * len(results.tasks)
        table.add_row(label + (" (base)" if label == results.base else ""), str(runs), *values)
    if len(results.labels) > SHOWN:
        table.add_row(f"... and {len(results.labels) - SHOWN} more in the report")
    return table


def _text(point: float, low: float, high: float) -> str:
    if math.isnan(point):
        return "-"
    return f"{point:.1f}" if math.isnan(low) else f"{point:.1f} [{low:.1f}, {high:.1f}]"
