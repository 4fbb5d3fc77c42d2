"""Writes a grid's report: everything or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dqlab.analysis.report.bibtex import bibtex_file
from dqlab.analysis.report.figures import Drawn, draw_figures, figure_bytes
from dqlab.analysis.report.latex import latex_tables
from dqlab.analysis.report.page import report_page
from dqlab.analysis.report.sheets import aggregates_sheet, results_as_json, scores_sheet
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import analyse
from dqlab.analysis.statistics.analysis import Analysis, Estimate
from dqlab.envs.caveats import score_or_return
from dqlab.files import new_folder
from dqlab.printing import Console

MARK = "results.json"
"""The file by which a report's folder is known."""
Writer = Callable[[GridResults, Analysis, Report, Mapping[str, Drawn]], str]
FILES: Mapping[str, Writer] = {
    "index.html": report_page,
    "scores.csv": lambda results, analysis, settings, drawn: scores_sheet(results),
    "aggregates.csv": lambda results, analysis, settings, drawn: aggregates_sheet(results, analysis),
    MARK: lambda results, analysis, settings, drawn: results_as_json(results, analysis, settings),
    "tables.tex": lambda results, analysis, settings, drawn: latex_tables(results, analysis, settings),
    "references.bib": lambda results, analysis, settings, drawn: bibtex_file(results),
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
    drawn = draw_figures(results, analysis, settings.rules)
    files = {name: writer(results, analysis, settings, drawn).encode() for name, writer in FILES.items()}
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


__all__ = ["write_report"]
SHOWN = 40


def report_and_print(results: GridResults, settings: Report, folder: Path, console: Console) -> None:
    """Write the report, and say what it says."""
    with console.status("computing intervals") if console.is_terminal else nullcontext():
        analysis = analyse(results, settings)
        write_report(results, settings, folder, analysis)
    console.print(score_table(analysis, settings, results.caveat))
    for caution in analysis.cautions:
        console.print(Text(f"! {caution}"), soft_wrap=True)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


def score_table(analysis: Analysis, settings: Report, caveat: str) -> Table:
    """Interquartile means by selection rule, with intervals, of every setting."""
    note = f" ({caveat})" if caveat else ""
    share = f"{100 * analysis.confidence:g}%"
    title = (
        f"{analysis.name}: interquartile mean {score_or_return(caveat)}{note} with {share} interval, by selection rule"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("cell")
    table.add_column("runs", justify="right")
    for rule in settings.rules:
        table.add_column(rule.replace("_", "-"), justify="right")
    table.add_column("best-online minus last (mean)", justify="right")
    gaps = {gap.label: gap.over_last for gap in analysis.gaps}
    for label in analysis.labels[:SHOWN]:
        table.add_row(*_row(analysis, settings, label, gaps.get(label)))
    if len(analysis.labels) > SHOWN:
        table.add_row(f"... and {len(analysis.labels) - SHOWN} more in the report")
    return table


def _row(analysis: Analysis, settings: Report, label: str, gap: Estimate | None) -> list[str]:
    matrix = analysis.rules[settings.rules[0]].matrices[label]
    name = label + (" (base)" if label == analysis.base else "")
    found = [analysis.rules[rule].aggregates.get(label) for rule in settings.rules]
    scores = [_text(each.iqm) if each is not None else "-" for each in found]
    return [name, str(sum(map(len, matrix.scores))), *scores, _text(gap) if gap is not None else "-"]


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.1f}"
    return f"{estimate.point:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
