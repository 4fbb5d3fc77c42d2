r"""A report's tables for LaTeX: `\input{tables.tex}` in a document that uses booktabs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from dqlab.analysis.report.tables import ReportTable, TableColumn, Tables, TableValue
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import Analysis

HEAD = r"""% Written by dqlab from the grid '{name}'. Wants \usepackage{{booktabs}}; then \input{{tables.tex}}.
% Every score stands with its selection rule{caveat}.
"""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u00d7": r"$\times$",
    "…": r"\ldots{}",
}
HEADS_LEFT_OUT = ("mean difference", "least p")
"""Of comparisons: what a paper's width has no room for."""


def latex_tables(results: GridResults, analysis: Analysis, settings: Report) -> str:
    """Tables of aggregates, gaps, tasks and comparisons by each of the rules, and the published scores."""
    head = HEAD.format(name=_one_line(results.name), caveat=f" and is {results.caveat}" if results.caveat else "")
    return head + "\n".join(_table(table) for table in _tables(Tables(analysis, results.caveat), settings))


def _tables(tables: Tables, settings: Report) -> Iterator[ReportTable]:
    for metric in ("iqm", "mean"):
        yield tables.aggregates(settings.rules, (metric,))
    yield tables.gaps()
    for rule in settings.rules:
        table = tables.tasks(rule)
        yield min(table, table.turned("Task"), key=lambda each: each.width)
        if len(tables.analysis.labels) > 1:
            yield tables.comparisons(rule).without(HEADS_LEFT_OUT)
    references = tables.references()
    if references is not None:
        yield references


def _table(table: ReportTable) -> str:
    heads = " & ".join(escape_latex(column.head) for column in table.columns)
    lines = [heads, *([_unders(table.columns)] if any(column.under for column in table.columns[1:]) else [])]
    body = [" & ".join(_value(value, row[0].text in table.strong) for value in row) for row in table.rows]
    words = table.words()
    base = " The base's name is in bold." if table.strong else ""
    columns = "".join("l" if place in words else "r" for place in range(len(table.columns)))
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{escape_latex(table.caption + base)}}}",
            rf"  \label{{tab:{table.name.replace('_', '-')}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            *(rf"    {line} \\" for line in lines),
            r"    \midrule",
            *(rf"    {line} \\" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _unders(columns: tuple[TableColumn, ...]) -> str:
    return " & ".join(
        rf"{{\footnotesize {escape_latex(c.under)}}}" if c.under and i else "" for i, c in enumerate(columns)
    )


def _value(value: TableValue, strong: bool) -> str:
    detail = rf" {{\scriptsize {escape_latex(value.detail)}}}" if value.detail else ""
    text = escape_latex(value.text) + detail
    return rf"\textbf{{{text}}}" if strong and value.number is None and not detail else text


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it literally, whatever characters it has."""
    escaped = "".join(SPECIAL.get(character) or _character(character) for character in _one_line(text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _character(character: str) -> str:
    """Western letters as they are, Greek ones as mathematics, others without accents, or as their code point."""
    if character.isprintable() and ord(character) < 0x100:
        return character
    greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(character, ""))
    if greek and greek[1] in GREEK.split():
        return rf"$\{greek[1].lower().replace('lamda', 'lambda')}$"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(each, each) for each in plain) or rf"(U+{ord(character):04X})"


GREEK = (
    "ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA LAMDA MU NU XI PI RHO SIGMA TAU UPSILON PHI CHI PSI OMEGA"
)
