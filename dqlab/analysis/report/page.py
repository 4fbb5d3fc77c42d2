"""The page of a report: one file that needs no network and no scripts."""

from __future__ import annotations

import base64
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from dqlab.analysis.report.bibtex import bibtex_file, cited_works, uncited_sources
from dqlab.analysis.report.figures import INK, TEXT_WIDTH, Drawn, figure_bytes
from dqlab.analysis.report.tables import METRICS, ReportTable, TableColumn, Tables, TableValue
from dqlab.analysis.report.words import counted, format_duration, summary_paragraph
from dqlab.analysis.results import GridResults
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import Analysis
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

MANY = 7  # columns from which on intervals stand below their numbers
THEMED = "<style>svg{color:#202428}@media (prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"


def html_section(name: str, title: str, *content: str) -> str:
    """A section with its heading; nothing where it has no content."""
    inside = "\n".join(filter(None, content))
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>' if inside else ""


def html_paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; nothing where there is no text."""
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def html_list(lines: Sequence[str], kind: str = "") -> str:
    """A list; nothing where there are no lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul{_class(kind)}>{items}</ul>" if items else ""


def html_code(text: str) -> str:
    """Text as it stands, in a box of its own."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def html_details(title: str, *content: str, more: bool = False) -> str:
    """What is unfolded by a click; open on paper."""
    return f"<details{' open' if more else ''}><summary>{escape(title)}</summary>{''.join(content)}</details>"


def html_facts(known: Mapping[str, str]) -> str:
    """Names and values, a line each."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in known.items())
    return f"<dl>{rows}</dl>" if rows else ""


def html_table(data: ReportTable) -> str:
    """A table that scrolls where the page is narrow; its heads sort it where scripts run."""
    words = data.words()
    head = "".join(_head(column, place in words) for place, column in enumerate(data.columns))
    body = "\n".join(_row(row, words, row[0].text in data.strong) for row in data.rows)
    kind = _class("many" if len(data.columns) > MANY else "")
    return (
        f'<div class="wide" tabindex="0"><table id="table-{escape(data.name)}"{kind}>'
        f"<caption><span>{escape(data.caption)}</span></caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _head(column: TableColumn, words: bool) -> str:
    under = f"<small>{escape(column.under)}</small>" if column.under else ""
    return f'<th scope="col"{_class("text" if words else "")}>{escape(column.head)}{under}</th>'


def _row(row: Sequence[TableValue], words: Container[int], strong: bool) -> str:
    first, *others = row
    base = " <em>base</em>" if strong else ""
    cells = "".join(_cell(value, place in words) for place, value in enumerate(others, 1))
    return f'<tr{_class("base" if strong else "")}><th scope="row">{escape(first.text)}{base}</th>{cells}</tr>'


def _cell(value: TableValue, words: bool) -> str:
    detail = f" <small>{escape(value.detail)}</small>" if value.detail else ""
    number = f' data-number="{value.number!r}"' if value.number is not None else ""
    return f"<td{number}{_class('text' if words else '')}>{escape(value.text)}{detail}</td>"


def html_figure(drawn: Drawn | None) -> str:
    """The figure inside the page; ink becomes light where the page is dark. Nothing where there is no figure."""
    if drawn is None:
        return ""
    svg = figure_bytes(drawn, "svg").decode().replace(INK, "currentColor")
    start = svg.index("<svg")
    inside = svg.index(">", start) + 1
    data = base64.b64encode((svg[start:inside] + THEMED + svg[inside:]).encode()).decode()
    share = drawn.figure.get_figwidth() / TEXT_WIDTH
    source = f"data:image/svg+xml;base64,{data}"
    return (
        f'<figure id="figure-{escape(drawn.name)}" style="--share: {share:.3g}"><div class="wide">'
        f'<img alt="{escape(drawn.caption)}" src="{source}"></div>'
        f"<figcaption>{escape(drawn.caption)}</figcaption></figure>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


WIDEST = 120  # characters


def report_page(results: GridResults, analysis: Analysis, settings: Report, drawn: Mapping[str, Drawn]) -> str:
    """The page as HTML text."""
    body = "\n".join(filter(None, _Page(results, analysis, settings, drawn).sections()))
    parts = {"TITLE": escape(f"Ablation: {results.name}"), "STYLE": _file("page.css"), "SCRIPT": _file("sort.js")}
    text = _file("page.html")
    for name, content in {**parts, "BODY": body}.items():
        text = text.replace(f"<!--{name}-->", content, 1)
    return text


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Page:
    results: GridResults
    analysis: Analysis
    settings: Report
    drawn: Mapping[str, Drawn]

    @property
    def tables(self) -> Tables:
        return Tables(self.analysis, self.results.caveat)

    @property
    def rules(self) -> Sequence[str]:
        return self.settings.rules

    def sections(self) -> Iterator[str]:
        """Everything, in the order in which a reader wants it."""
        yield self._head()
        yield html_section("aggregate", "Aggregate scores", self._aggregate(), self._figure("iqm"))
        yield html_section("values", "Score against the value", self._figure("score_by_value"))
        tasks = [html_table(_narrow(self.tables.tasks(rule))) for rule in self.rules]
        yield html_section("tasks", "Scores by task", *tasks)
        yield html_section("curves", "Learning curves", self._figure("learning_curves"))
        yield html_section("profiles", "Performance profiles", self._figure("profiles"))
        yield html_section("comparisons", "Against the base", *self._comparisons())
        references = self.tables.references()
        yield html_section("references", "Published scores", html_table(references) if references else "")
        yield html_section("open", "Failures and pending runs", *self._unfinished())
        yield html_section("all-rules", "All selection rules", self._all_rules())
        yield html_section("gin", "Configuration", html_details("The grid as gin text", html_code(self.results.gin)))
        yield html_section("made", "How it was made", html_facts(dict(_facts(self.results.facts))))
        yield html_section("cite", "How to cite", *self._cite())

    def _head(self) -> str:
        title = f"<h1>Ablation: {escape(self.results.name)}</h1>"
        said = html_paragraph(summary_paragraph(self.results, self.analysis, self.rules), "answer")
        return f"<header>{title}{said}{self._cautions()}{self._legend()}</header>"

    def _cautions(self) -> str:
        lines = html_list(self.analysis.cautions)
        return (
            f'<aside class="cautions" aria-label="Cautions"><strong>Cautions</strong>{lines}</aside>' if lines else ""
        )

    def _legend(self) -> str:
        """What the selection rules mean: no score without its rule."""
        known = {rule_name(rule): SELECTION_RULES[rule] for rule in self.rules}
        return f'<div class="rules"><strong>Selection rules</strong>{html_facts(known)}</div>'

    def _figure(self, name: str) -> str:
        return html_figure(self.drawn.get(name))

    def _aggregate(self) -> str:
        shown = self.tables.aggregates(self.rules)
        if len(self.rules) <= 3:
            return html_table(shown.beside(self.tables.gaps()))
        return html_table(shown) + html_table(self.tables.gaps())

    def _comparisons(self) -> list[str]:
        if len(self.analysis.labels) < 2:
            return [html_paragraph("There is one setting: nothing to compare it with.")]
        if not any(self.analysis.rules[rule].comparisons.rows for rule in self.rules):
            return [html_paragraph("No setting can be compared with the base yet.")]
        return [self._figure("improvement"), *(html_table(self.tables.comparisons(rule)) for rule in self.rules)]

    def _unfinished(self) -> Iterator[str]:
        failures, pending = self.results.failures, self.results.pending
        if not failures and not pending:
            yield html_paragraph("None: every run has finished.")
        if failures:
            yield html_table(_failures(self.results))
        if pending:
            yield html_table(_pending(self.results))

    def _all_rules(self) -> str:
        tables = (self.tables.aggregates([rule], tuple(METRICS)) for rule in SELECTION_RULES)
        each = (html_table(_renamed(table, rule)) for table, rule in zip(tables, SELECTION_RULES, strict=True))
        rest = [rule for rule in SELECTION_RULES if rule not in self.rules]
        tasks = (html_table(_narrow(self.tables.tasks(rule))) for rule in rest)
        note = html_paragraph("The optimality gap is the mean shortfall from a score of 100, as a share of it.")
        return html_details("Aggregates by each of the four rules", note, *each, *tasks)

    def _cite(self) -> Iterator[str]:
        yield html_paragraph("Works behind these figures, as references.bib has them:")
        lacking = [f"{line} (no BibTeX entry is known)" for line in uncited_sources(self.results)]
        yield html_list([*(entry.line for entry in cited_works(self.results)), *lacking], "works")
        yield html_details("BibTeX", html_code(bibtex_file(self.results)))


def _narrow(table: ReportTable) -> ReportTable:
    """Turned where it would be wider than the page and turning helps."""
    return min(table, table.turned("Task"), key=lambda each: each.width) if table.width > WIDEST else table


def _renamed(table: ReportTable, rule: str) -> ReportTable:
    return ReportTable(f"all-{rule}", f"Selection rule: {rule_name(rule)}. {table.caption}", *_rest(table))


def _rest(table: ReportTable) -> tuple[Any, ...]:
    return table.columns, table.rows, table.strong


def _failures(results: GridResults) -> ReportTable:
    columns = tuple(map(TableColumn, ("Setting", "task", "seed", "what happened", "reason")))
    rows = tuple(
        (
            TableValue(f.cell.label),
            TableValue(f.cell.task),
            _seed(f.cell.seed),
            TableValue(f.failure),
            TableValue(f.reason),
        )
        for f in results.failures
    )
    return ReportTable("failures", f"Failed: {counted(len(rows), 'run')}. They have no score.", columns, rows)


def _seed(seed: int) -> TableValue:
    return TableValue(str(seed), "", seed)


def _pending(results: GridResults) -> ReportTable:
    """A row a setting and task: its seeds."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for cell in (status.cell for status in results.pending):
        seeds.setdefault((cell.label, cell.task), []).append(cell.seed)
    columns = tuple(map(TableColumn, ("Setting", "task", "seeds")))
    rows = tuple(
        (TableValue(label), TableValue(task), TableValue(", ".join(map(str, sorted(s)))))
        for (label, task), s in seeds.items()
    )
    return ReportTable("pending", f"Pending: {counted(len(results.pending), 'run')}.", columns, rows)


def _facts(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in known.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            yield title, ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, (tuple, list)):
            yield title, ", ".join(map(str, value))
        else:
            yield ("time", format_duration(float(value))) if title == "seconds" else (title, str(value))
