"""Writes a grid's report, everything or nothing: a page that needs no network and no scripts, CSV, JSON and BibTeX."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from pydantic_core import to_json

from dqlab import __version__
from dqlab.analysis.report import tables
from dqlab.analysis.report.figures import INK, TEXT_WIDTH, ReportFigure, draw_figures, figure_bytes
from dqlab.analysis.report.inspection import inspection_figures
from dqlab.analysis.report.tables import ReportTable
from dqlab.analysis.resampling import METRICS
from dqlab.analysis.results import FAILED, FINISHED, GridResults, Report
from dqlab.analysis.statistics import ALL_TASKS, BOUNDS, COMPARED, CORRECTION, ENOUGH, TEST, Analysis, analyse
from dqlab.config.identity import LATER
from dqlab.files import new_folder
from dqlab.machine import readable_duration
from dqlab.printing import Console, counted, enumerate_names, format_interval, format_points, p_value
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

HERE = Path(__file__).parent
MARK = "results.json"  # the file by which a report's folder is known
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
    cells = pd.concat([shown.cells, tables.choice_table(analysis).cells.iloc[:, :1]], axis=1)
    console.print(tables.rich_table(replace(shown, caption=f"{results.name}: {shown.caption}", cells=cells), SHOWN))
    for line in (*_decided(analysis), *(f"! {caution}" for caution in analysis.cautions)):
        console.say(line)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


def report_page(analysis: Analysis, drawn: Mapping[str, ReportFigure]) -> str:
    """The page as HTML text; page.html says how it looks."""
    results, rules = analysis.results, analysis.settings.rules
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    return templates.get_template("page.html").render(
        results=results,
        summary=summary_paragraph(analysis),
        cautions=analysis.cautions,
        rules={rule_name(rule): said for rule, said in SELECTION_RULES.items()},
        figures={name: _embedded(figure) for name, figure in drawn.items()},
        aggregates=[tables.aggregate_table(analysis, rules)],
        choices=[] if analysis.gains.empty else [tables.choice_table(analysis)],
        orders=[tables.order_table(analysis)] if len(analysis.orders) else [],
        tasks=[tables.task_table(analysis, rule) for rule in rules],
        comparisons=[] if analysis.comparisons.empty else [tables.comparison_table(analysis, rule) for rule in rules],
        references=[tables.reference_table(analysis)] if analysis.settings.reference else [],
        failures=[tables.failure_table(results)] * bool(results.failures),
        all_rules=list(_by_all_rules(analysis)),
        configs=dict(_configurations(results)),
        made=dict(_facts(results.facts)),
        bibtex=bibtex_file(results),
    )


def _embedded(drawn: ReportFigure) -> dict[str, str]:
    """The figure for the page; ink becomes light where the page is dark."""
    svg = figure_bytes(drawn, "svg").decode().replace(INK, "currentColor")
    inside = svg.index(">", svg.index("<svg")) + 1
    data = base64.b64encode((svg[:inside] + THEMED + svg[inside:]).encode()).decode()
    return {"caption": drawn.caption, "svg": data, "share": f"{drawn.figure.get_figwidth() / TEXT_WIDTH:.3g}"}


def _by_all_rules(analysis: Analysis) -> Iterator[ReportTable]:
    for rule in SELECTION_RULES:
        table = tables.aggregate_table(analysis, [rule], tuple(METRICS))
        yield replace(table, name=f"all-{rule}", caption=f"Selection rule: {rule_name(rule)}. {table.caption}")
    for rule in SELECTION_RULES:
        if rule not in analysis.settings.rules:
            yield tables.task_table(analysis, rule)


def _configurations(results: GridResults) -> Iterator[tuple[str, str]]:
    """What the base runs, and in what others differ from it there, as gin's text: each on the first task it has."""
    for label in sorted(results.labels, key=lambda label: label != results.base):
        shared = (task for task, known in results.configs.items() if {label, results.base} <= known.keys())
        if task := next(shared, ""):
            own, base = results.configs[task][label], results.configs[task][results.base]
            told = {n: v for n, v in own.items() if label == results.base or v != base.get(n, LATER.get(n))}
            where = f" (on {task})" if len(results.tasks) > 1 else ""
            title = f"{label}: {'all of it' if label == results.base else 'where it differs'}{where}"
            yield title, "\n".join(f"{name} = {value!r}" for name, value in told.items())


def _facts(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in known.items():
        if isinstance(value, (Mapping, tuple, list)):
            parts = [f"{key} {item}" for key, item in value.items()] if isinstance(value, Mapping) else map(str, value)
            yield name.replace("_", " "), ", ".join(parts)
        else:
            yield ("time", readable_duration(float(value))) if name == "seconds" else (name, str(value))


def summary_paragraph(analysis: Analysis) -> str:
    """What is decided, what the grid compares, and how far it is, as one paragraph."""
    results = analysis.results
    settings = f"{counted(len(results.labels), 'setting')} ({enumerate_names(results.labels)})"
    tasks = f"{counted(len(results.tasks), 'task')} ({enumerate_names(results.tasks)})"
    number = "All" if len(results.results) == len(results.statuses) else f"{len(results.results):,} of"
    said = [*_decided(analysis)]
    said += [f"This grid compares {settings} on {tasks} with {counted(len(results.seeds), 'seed')} each."]
    known = [config for of_task in results.configs.values() for config in of_task.values()]
    sizes = {tuple(config.get(f"Training.{name}") for name in ("steps", "eval_episodes")) for config in known}
    updates, episodes = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    if updates is not None and episodes is not None:
        said += [f"A run is {updates:,} updates, an evaluation {counted(episodes, 'episode')}."]
    said += [f"{number} {counted(len(results.statuses), 'run')} have finished."]
    said += [f"All scores: {results.caveat}."] if results.caveat else []
    return " ".join(said)


def _decided(analysis: Analysis) -> Iterator[str]:
    """The verdicts and the best setting by the first rule."""
    first = analysis.settings.rules[0]
    found, tests = analysis.figure(first, "iqm"), analysis.compared(first)
    if found.empty:
        yield "No setting has a seed that finished on every task: there is nothing to compare yet."
        return
    rows = tests.join(analysis.figure(first, "mean_difference"))
    rows = rows.sort_values("point", key=lambda point: -point.abs(), kind="stable")
    clauses = []
    for verdict in ("better", "worse", "undecided"):
        said = []
        for row in rows[rows.verdict == verdict].itertuples():
            points = f"{format_points(row.point, signed=True)} points on average"  # of the mean, which is tested
            around, p = format_interval(row.low, row.high, signed=True), p_value(row.corrected)
            evidence = f"{points} {around}".rstrip() + f", corrected p {p if p.startswith('<') else f'= {p}'}"
            said.append(f"{row.Index} ({evidence})")
        if said:
            clauses.append(f"{enumerate_names(said, 4)} {'is' if len(said) == 1 else 'are'} {verdict}")
    few = tests.seeds.max() < ENOUGH
    reason = f" (no test decides below {counted(ENOUGH, 'seed')}, however large the difference)" if few else ""
    rule = f"By selection rule {rule_name(first)},"
    if clauses:
        yield f"{rule} against the base, {analysis.results.base}: {'; '.join(clauses)}{reason}."
    best = found.loc[found.point.idxmax()]
    shown = f"{format_points(best.point)} {format_interval(best.low, best.high)}".strip()
    yield f"{'' if clauses else rule} {best.name} has the highest interquartile mean (IQM), {shown}.".strip()


FRAMES = (
    *("scores", "task_scores", "estimates", "comparisons", "curves", "profiles", "references", "reference_means"),
    *("gains", "orders", "tuning"),
)
SCORES = tuple(f"score_{rule}" for rule in SELECTION_RULES)
LAST = ("steps", "state", "reason", "caveat", "id")


def results_json(analysis: Analysis) -> str:
    """A JSON object: `grid`, `settings`, `caveat`, `facts`, `cells`, `analysis`; null for what is not finite.

    `analysis` has the statistics as `Analysis` has them: `pandas.DataFrame(**known["analysis"]["estimates"])`.
    """
    results = analysis.results
    indexed = {name: getattr(analysis, name) for name in FRAMES}
    frames = {name: each if each.index.names == [None] else each.reset_index() for name, each in indexed.items()}
    known = {
        "grid": {name: getattr(results, name) for name in ("name", "base", "labels", "axes", "tasks", "seeds", "gin")},
        "caveat": results.caveat,
        "facts": results.facts,
        "settings": asdict(analysis.settings),
        "cells": all_cells(results),
        "analysis": {name: frame.to_dict("split", index=False) for name, frame in frames.items()}
        | {"cautions": analysis.cautions, "correction": CORRECTION, "test": TEST, "enough": ENOUGH},
    }
    return to_json(known, indent=1, inf_nan_mode="null", fallback=str).decode() + "\n"


def all_cells(results: GridResults) -> list[dict[str, Any]]:
    """Every cell of the grid: finished ones with scores and evaluations, then failures, then what is pending."""
    cells = []
    for each in results.statuses:
        state = {FINISHED: FINISHED, FAILED: each.failure}.get(each.state, "pending")
        cells.append({**each.cell.as_dict(), "state": state, "reason": each.reason})
        if each.state == FINISHED:
            kept = {name: each.summary.get(name) for name in ("algorithm", "caveat", "selection", "evaluations")}
            cells[-1] |= {"scores": {rule: each.score(rule) for rule in SELECTION_RULES}, **kept}
    return cells


def scores_csv(results: GridResults) -> str:
    """A row a cell: label, place on each axis, task, seed, the score by each rule, steps, state, reason, caveat, id."""
    reserved = {"label", "task", "seed", *SCORES, *LAST}
    axes = {axis: f"{axis}_axis" if axis in reserved else axis for axis in results.axes}
    columns = ["label", *axes.values(), "task", "seed", *SCORES, *LAST]
    rows = []
    for cell in all_cells(results):
        places = {column: cell["points"].get(axis, "") for axis, column in axes.items()}
        scores = {f"score_{rule}": score for rule, score in cell.get("scores", {}).items()}
        steps = (cell.get("evaluations") or [{}])[-1].get("step", "")
        rows.append({**dict.fromkeys(columns, ""), **cell, **places, **scores, "steps": steps})
    rows.sort(key=lambda row: (results.labels.index(row["label"]), results.tasks.index(row["task"]), row["seed"]))
    return str(pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, na_rep="nan"))


def aggregates_csv(analysis: Analysis) -> str:
    """A row a rule and setting: aggregates with intervals, and the comparison with the base."""
    results, known = analysis.results, analysis.estimates
    keys = pd.MultiIndex.from_product([SELECTION_RULES, results.labels], names=["rule", "label"])
    complete = analysis.scores.notna().all(axis=1).groupby(level=["rule", "setting"]).sum()
    wide = known[known.task == ALL_TASKS].pivot(index=["rule", "setting"], columns="metric", values=BOUNDS)
    sheet = pd.DataFrame({"tasks": len(results.tasks), "complete_seeds": complete.reindex(keys, fill_value=0)})
    for metric in (*METRICS, *COMPARED):
        for bound, end in zip(BOUNDS, ("", "_low", "_high"), strict=True):
            sheet[metric + end] = wide.get((bound, metric), pd.Series(dtype=float)).reindex(keys)
    tests = analysis.comparisons.set_index(["rule", "setting"]).reindex(keys)
    sheet = sheet.join(tests[["p", "corrected", "smallest_p", "verdict"]]).assign(base=results.base)
    return sheet_csv(sheet.reset_index(), analysis)


def sheet_csv(sheet: pd.DataFrame, analysis: Analysis) -> str:
    """A frame with what must be known of its figures."""
    facts = {"confidence": analysis.settings.confidence, "caveat": analysis.results.caveat}
    return str(sheet.assign(**facts).to_csv(index=False))


FILES: Mapping[str, Callable[[Analysis], str]] = {
    "scores.csv": lambda analysis: scores_csv(analysis.results),
    "aggregates.csv": aggregates_csv,
    "checkpoints.csv": lambda analysis: sheet_csv(analysis.gains, analysis),
    "tuning.csv": lambda analysis: sheet_csv(analysis.tuning, analysis),
    MARK: results_json,
    "tables.tex": tables.latex_tables,
    "references.bib": lambda analysis: bibtex_file(analysis.results),
}

ALWAYS = (  # works behind every grid, as references.bib has them
    *("wang2023diffusion", "agarwal2021deep", "holm1979simple", "dodge2019show", "jackson2025clean", "fu2020d4rl"),
    *("todorov2012mujoco", "paszke2019pytorch", "towers2024gymnasium", "kingma2015adam"),
)
DQLAB = """@misc{{dqlab,
  author = {{{{The dqlab authors}}}},
  title = {{{{dqlab}}: Reproduce, Ablate and Extend {{Diffusion-QL}}}},
  note = {{Version {version}}},
}}
"""
YEAR = re.compile(r"\b(19|20)\d\d\b")


def load_bibliography() -> Mapping[str, str]:
    """Every entry of references.bib, by key."""
    text = (HERE / "references.bib").read_text(encoding="utf-8")
    return {entry[2]: entry[0] for entry in re.finditer(r"^@(\w+)\{(.*?),.*?^\}$", text, re.DOTALL | re.MULTILINE)}


def bibtex_file(results: GridResults) -> str:
    """What a paper with these results would cite; components whose works references.bib lacks stand in comments."""
    keys, known = {*ALWAYS, *(key for component in results.components for key in component.cites)}, load_bibliography()
    lacking = [each for each in results.components if YEAR.search(each.source) and not known.keys() & set(each.cites)]
    blocks = [DQLAB.format(version=__version__), *(f"{entry}\n" for key, entry in known.items() if key in keys)]
    blocks += [f"% No entry is known for {' '.join(f'{each.name}: {each.source}'.split())}" for each in lacking]
    return "\n".join(blocks)
