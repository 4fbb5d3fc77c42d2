"""A report's figures for programs and papers: tables as CSV, results.json, tables.tex, references.bib."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from typing import Any

import pandas as pd
from pydantic_core import to_json

from dqlab import __version__
from dqlab.analysis.cautions import CORRECTION, ENOUGH
from dqlab.analysis.report import tables
from dqlab.analysis.report.tables import ReportTable
from dqlab.analysis.resampling import METRICS
from dqlab.analysis.results import FAILED, FINISHED, GridResults
from dqlab.analysis.statistics import ALL_TASKS, BOUNDS, COMPARED, TEST, Analysis
from dqlab.tracking.selection_rules import SELECTION_RULES

FRAMES = (
    *("scores", "task_scores", "estimates", "comparisons", "curves", "profiles", "references", "reference_means"),
    *("gains", "orders", "swaps", "tuning"),
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


HEAD = r"""% Written by dqlab from the grid '{name}'. Wants \usepackage{{booktabs}}; then \input{{tables.tex}}.
% Every score stands with its selection rule{caveat}.
"""
SPECIAL = {character: rf"\{character}" for character in "{}$&#%_"}
SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "…": r"\ldots{}"}
SPECIAL |= {"±": r"$\pm$", "\u2212": "$-$", "\u2013": "--", "\u00d7": r"$\times$"}


def latex_tables(analysis: Analysis) -> str:
    r"""Tables of aggregates, gaps, orders, tasks, comparisons by each of the rules, and published scores: booktabs."""
    results = analysis.results
    caveat = f" and is {results.caveat}" if results.caveat else ""
    return HEAD.format(name=" ".join(results.name.split()), caveat=caveat) + "\n".join(
        latex_table(table) for table in _tables(analysis)
    )


def _tables(analysis: Analysis) -> Iterator[ReportTable]:
    several = len(analysis.results.labels) > 1
    for metric in ("iqm", "mean"):
        yield tables.aggregate_table(analysis, analysis.settings.rules, (metric,))
    yield tables.gap_table(analysis)
    yield tables.common_table(analysis)
    if several:
        yield tables.order_table(analysis)
        yield tables.swap_table(analysis)
    for rule in analysis.settings.rules:
        yield tables.task_table(analysis, rule)
        if several:
            table = tables.comparison_table(analysis, rule)
            yield replace(table, cells=table.cells.drop(columns=["mean difference", "least p"], level=0))
    if analysis.settings.reference:
        yield tables.reference_table(analysis)


def latex_table(table: ReportTable) -> str:
    """A booktabs table."""
    heads = [(escape_latex(head), _small("footnotesize", under)) for head, under, _ in table.columns]
    columns = pd.Index(heads if any(under for _, under in heads) else [head for head, _ in heads])
    rows = [[escape_latex(name), *map(_latex_cell, texts)] for name, *texts in table.rows]
    for row, (name, *_) in zip(rows, table.rows, strict=True):
        row[0] = rf"\textbf{{{row[0]}}}" if name == table.strong else row[0]
    style = pd.DataFrame(rows, columns=columns, dtype=object).style.hide(axis="index")
    narrow = [{"selector": "small", "props": ":;"}, {"selector": "setlength", "props": r":{\tabcolsep}{4pt};"}]
    text: str = style.set_table_styles(narrow).to_latex(
        column_format="".join("l" if words else "r" for _, _, words in table.columns),
        position="t",
        position_float="centering",
        hrules=True,
        caption=escape_latex(table.caption + (" The base's name is in bold." if table.strong else "")),
        label=f"tab:{table.name.replace('_', '-')}",
        sparse_columns=False,
    )
    return text


def _latex_cell(text: str) -> str:
    value, _, detail = text.partition("\n")
    return f"{escape_latex(value)} {_small('scriptsize', detail)}".rstrip()


def _small(size: str, text: str) -> str:
    return rf"{{\{size} {escape_latex(text)}}}" if text else ""


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it literally; letters that pdfLaTeX does not have are left as they are, for LuaLaTeX."""
    escaped = "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


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
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    return {entry[2]: entry[0] for entry in re.finditer(r"^@(\w+)\{(.*?),.*?^\}$", text, re.DOTALL | re.MULTILINE)}


def bibtex_file(results: GridResults) -> str:
    """What a paper with these results would cite; components whose works references.bib lacks stand in comments."""
    keys, known = {*ALWAYS, *(key for component in results.components for key in component.cites)}, load_bibliography()
    lacking = [each for each in results.components if YEAR.search(each.source) and not known.keys() & set(each.cites)]
    blocks = [DQLAB.format(version=__version__), *(f"{entry}\n" for key, entry in known.items() if key in keys)]
    blocks += [f"% No entry is known for {' '.join(f'{each.name}: {each.source}'.split())}" for each in lacking]
    return "\n".join(blocks)
