"""Writes a grid's report, everything or nothing; its page is one file that needs no network and no scripts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from rich.text import Text

from dqlab.analysis.cautions import ENOUGH
from dqlab.analysis.report import tables
from dqlab.analysis.report.exports import aggregates_csv, bibtex_file, latex_tables, results_json, scores_csv, sheet_csv
from dqlab.analysis.report.figures import INK, TEXT_WIDTH, ReportFigure, draw_figures, figure_bytes
from dqlab.analysis.report.inspection import inspection_figures
from dqlab.analysis.report.tables import ReportTable
from dqlab.analysis.resampling import METRICS
from dqlab.analysis.results import GridResults, Report
from dqlab.analysis.statistics import Analysis, analyse
from dqlab.files import new_folder
from dqlab.machine import readable_duration
from dqlab.printing import Console, counted, enumerate_names, format_interval, format_points, p_value
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

MARK = "results.json"  # the file by which a report's folder is known
FILES: Mapping[str, Callable[[Analysis], str]] = {
    "scores.csv": lambda analysis: scores_csv(analysis.results),
    "aggregates.csv": aggregates_csv,
    "checkpoints.csv": lambda analysis: sheet_csv(analysis.gains, analysis),
    "tuning.csv": lambda analysis: sheet_csv(analysis.tuning, analysis),
    MARK: results_json,
    "tables.tex": latex_tables,
    "references.bib": lambda analysis: bibtex_file(analysis.results),
}
SHOWN = 40  # rows on a terminal, at most
THEMED = "<style>svg{color:#202428}@media (prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"


def write_report(results: GridResults, settings: Report, folder: Path, analysis: Analysis | None = None) -> list[Path]:
    """Write the report of a grid, as far as it has come; an older one is replaced at once, or stays as it is.

    The folder gets `index.html`, `figures/`, and FILES; `analysis` is theirs, where there is one already. Returns
    the files, the page first. Raises RunError: the folder holds something else than a report.
    """
    analysis = analysis or analyse(results, settings)
    drawn = draw_figures(analysis) | inspection_figures(analysis)
    files = {"index.html": report_page(analysis, drawn).encode()}
    files |= {name: write(analysis).encode() for name, write in FILES.items()}
    for name, figure in drawn.items():
        files |= {f"figures/{name}.{kind}": figure_bytes(figure, kind) for kind in ("png", "pdf")}
    with new_folder(folder, lambda known: (known / MARK).is_file()) as new:
        (new / "figures").mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
    return [folder / name for name in files]


def report_and_print(results: GridResults, settings: Report, folder: Path, console: Console) -> None:
    """Write the report, and say what it says."""
    with console.status("computing intervals"):
        analysis = analyse(results, settings)
        write_report(results, settings, folder, analysis)
    shown = tables.aggregate_table(analysis, settings.rules, ("iqm",))
    cells = pd.concat([shown.cells, tables.gap_table(analysis).cells], axis=1)
    console.print(tables.rich_table(replace(shown, caption=f"{results.name}: {shown.caption}", cells=cells), SHOWN))
    for caution in analysis.cautions:
        console.print(Text(f"! {caution}"), soft_wrap=True)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


def report_page(analysis: Analysis, drawn: Mapping[str, ReportFigure]) -> str:
    """The page as HTML text; page.html says how it looks."""
    results, rules = analysis.results, analysis.settings.rules
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    return templates.get_template("page.html").render(
        results=results,
        summary=summary_paragraph(analysis),
        cautions=analysis.cautions,
        rules={rule_name(rule): SELECTION_RULES[rule] for rule in rules},
        figures={name: _embedded(figure) for name, figure in drawn.items()},
        aggregates=[tables.aggregate_table(analysis, rules)],
        choices=[] if analysis.gains.empty else list(_choices(analysis)),
        tasks=[tables.task_table(analysis, rule) for rule in rules],
        comparisons=[] if analysis.comparisons.empty else [tables.comparison_table(analysis, rule) for rule in rules],
        references=[tables.reference_table(analysis)] if analysis.settings.reference else [],
        unfinished=[tables.failure_table(results)] * bool(results.failures)
        + [tables.pending_table(results)] * bool(results.pending),
        all_rules=list(_by_all_rules(analysis)),
        made=dict(_facts(results.facts)),
        bibtex=bibtex_file(results),
    )


def _embedded(drawn: ReportFigure) -> dict[str, str]:
    """The figure for the page; ink becomes light where the page is dark."""
    svg = figure_bytes(drawn, "svg").decode().replace(INK, "currentColor")
    inside = svg.index(">", svg.index("<svg")) + 1
    data = base64.b64encode((svg[:inside] + THEMED + svg[inside:]).encode()).decode()
    return {"caption": drawn.caption, "svg": data, "share": f"{drawn.figure.get_figwidth() / TEXT_WIDTH:.3g}"}


def _choices(analysis: Analysis) -> Iterator[ReportTable]:
    common = tables.common_table(analysis)
    caption = f"Best-online: each run has its own best checkpoint. {common.caption}"
    yield replace(common, caption=caption, cells=pd.concat([tables.gap_table(analysis).cells, common.cells], axis=1))
    if len(analysis.orders):
        yield tables.order_table(analysis)
    if len(analysis.swaps):
        yield tables.swap_table(analysis)


def _by_all_rules(analysis: Analysis) -> Iterator[ReportTable]:
    for rule in SELECTION_RULES:
        table = tables.aggregate_table(analysis, [rule], tuple(METRICS))
        yield replace(table, name=f"all-{rule}", caption=f"Selection rule: {rule_name(rule)}. {table.caption}")
    for rule in SELECTION_RULES:
        if rule not in analysis.settings.rules:
            yield tables.task_table(analysis, rule)


def _facts(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in known.items():
        if isinstance(value, (Mapping, tuple, list)):
            parts = [f"{key} {item}" for key, item in value.items()] if isinstance(value, Mapping) else map(str, value)
            yield name.replace("_", " "), ", ".join(parts)
        else:
            yield ("time", readable_duration(float(value))) if name == "seconds" else (name, str(value))


def summary_paragraph(analysis: Analysis) -> str:
    """What the grid compares, how far it is, and what is decided, as one paragraph."""
    results = analysis.results
    settings = f"{counted(len(results.labels), 'setting')} ({enumerate_names(results.labels)})"
    tasks = f"{counted(len(results.tasks), 'task')} ({enumerate_names(results.tasks)})"
    said = [f"This grid compares {settings} on {tasks} with {counted(len(results.seeds), 'seed')} each."]
    failed, pending, total = len(results.failures), len(results.pending), counted(len(results.statuses), "run")
    others = [f"{failed:,} failed"] if failed else []
    others += [f"{pending:,} {'is' if pending == 1 else 'are'} still to come"] if pending else []
    finished = f"Of {total}, {len(results.results):,} finished, {' and '.join(others)}."
    said += [finished if others else f"All {total} have finished.", *_decided(analysis)]
    said += [f"All scores: {results.caveat}."] if results.caveat else []
    return " ".join(said)


def _decided(analysis: Analysis) -> Iterator[str]:
    """The best setting and the verdicts by the first rule."""
    first = analysis.settings.rules[0]
    found, tests = analysis.figure(first, "iqm"), analysis.compared(first)
    if found.empty:
        yield "No setting has a seed that finished on every task: there is nothing to compare yet."
        return
    best = found.loc[found.point.idxmax()]
    shown = f"{format_points(best.point)} {format_interval(best.low, best.high)}".strip()
    yield f"By selection rule {rule_name(first)}, {best.name} has the highest interquartile mean (IQM), {shown}."
    rows = tests.join(analysis.figure(first, "iqm_difference"))
    rows = rows.sort_values("point", key=lambda point: -point.abs(), kind="stable")
    clauses = []
    for verdict in ("better", "worse", "undecided"):
        said = []
        for row in rows[rows.verdict == verdict].itertuples():
            points = f"{format_points(row.point, signed=True)} IQM points"
            around, p = format_interval(row.low, row.high, signed=True), p_value(row.corrected)
            evidence = f"{points} {around}".rstrip() + f", corrected p {p if p.startswith('<') else f'= {p}'}"
            said.append(f"{row.Index} ({evidence})")
        if said:
            clauses.append(f"{enumerate_names(said, 4)} {'is' if len(said) == 1 else 'are'} {verdict}")
    few = tests.seeds.max() < ENOUGH
    reason = f" (no test decides below {counted(ENOUGH, 'seed')}, however large the difference)" if few else ""
    if clauses:
        yield f"Against the base, {analysis.results.base}: {'; '.join(clauses)}{reason}."
