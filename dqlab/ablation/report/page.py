"""The page of a report: one file that needs no network and no scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from dqlab.ablation.report import html
from dqlab.ablation.report.answer import answer
from dqlab.ablation.report.bibtex import bibtex, uncited, works
from dqlab.ablation.report.figures import Drawn
from dqlab.ablation.report.table import Column, Table, Value
from dqlab.ablation.report.tables import METRICS, Tables
from dqlab.ablation.report.words import RULE_MEANINGS, count, duration, rule_name
from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import RULES, GridResults
from dqlab.ablation.statistics.analysis import Analysis

WIDEST = 120  # characters


def page(results: GridResults, analysis: Analysis, settings: Report, drawn: Mapping[str, Drawn]) -> str:
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
        yield html.section("aggregate", "Aggregate scores", self._aggregate(), self._figure("iqm"))
        yield html.section("values", "Score against the value", self._figure("score_by_value"))
        tasks = [html.table(_narrow(self.tables.tasks(rule))) for rule in self.rules]
        yield html.section("tasks", "Scores by task", *tasks)
        yield html.section("curves", "Learning curves", self._figure("learning_curves"))
        yield html.section("profiles", "Performance profiles", self._figure("profiles"))
        yield html.section("comparisons", "Against the base", *self._comparisons())
        references = self.tables.references()
        yield html.section("references", "Published scores", html.table(references) if references else "")
        yield html.section("open", "Failures and pending runs", *self._unfinished())
        yield html.section("all-rules", "All selection rules", self._all_rules())
        yield html.section("gin", "Configuration", html.details("The grid as gin text", html.code(self.results.gin)))
        yield html.section("made", "How it was made", html.facts(dict(_facts(self.results.facts))))
        yield html.section("cite", "How to cite", *self._cite())

    def _head(self) -> str:
        title = f"<h1>Ablation: {escape(self.results.name)}</h1>"
        said = html.paragraph(answer(self.results, self.analysis, self.rules), "answer")
        return f"<header>{title}{said}{self._cautions()}{self._legend()}</header>"

    def _cautions(self) -> str:
        lines = html.bullets(self.analysis.cautions)
        return (
            f'<aside class="cautions" aria-label="Cautions"><strong>Cautions</strong>{lines}</aside>' if lines else ""
        )

    def _legend(self) -> str:
        """What the selection rules mean: no score without its rule."""
        known = {rule_name(rule): RULE_MEANINGS[rule] for rule in self.rules}
        return f'<div class="rules"><strong>Selection rules</strong>{html.facts(known)}</div>'

    def _figure(self, name: str) -> str:
        return html.figure(self.drawn.get(name))

    def _aggregate(self) -> str:
        shown = self.tables.aggregates(self.rules)
        if len(self.rules) <= 3:
            return html.table(shown.beside(self.tables.gaps()))
        return html.table(shown) + html.table(self.tables.gaps())

    def _comparisons(self) -> list[str]:
        if len(self.analysis.labels) < 2:
            return [html.paragraph("There is one setting: nothing to compare it with.")]
        if not any(self.analysis.rules[rule].comparisons.rows for rule in self.rules):
            return [html.paragraph("No setting can be compared with the base yet.")]
        return [self._figure("improvement"), *(html.table(self.tables.comparisons(rule)) for rule in self.rules)]

    def _unfinished(self) -> Iterator[str]:
        failures, pending = self.results.failures, self.results.pending
        if not failures and not pending:
            yield html.paragraph("None: every run has finished.")
        if failures:
            yield html.table(_failures(self.results))
        if pending:
            yield html.table(_pending(self.results))

    def _all_rules(self) -> str:
        tables = (self.tables.aggregates([rule], tuple(METRICS)) for rule in RULES)
        each = (html.table(_renamed(table, rule)) for table, rule in zip(tables, RULES, strict=True))
        rest = [rule for rule in RULES if rule not in self.rules]
        tasks = (html.table(_narrow(self.tables.tasks(rule))) for rule in rest)
        note = html.paragraph("The optimality gap is the mean shortfall from a score of 100, as a share of it.")
        return html.details("Aggregates by each of the four rules", note, *each, *tasks)

    def _cite(self) -> Iterator[str]:
        yield html.paragraph("Works behind these figures, as references.bib has them:")
        lacking = [f"{line} (no BibTeX entry is known)" for line in uncited(self.results)]
        yield html.bullets([*(entry.line for entry in works(self.results)), *lacking], "works")
        yield html.details("BibTeX", html.code(bibtex(self.results)))


def _narrow(table: Table) -> Table:
    """Turned where it would be wider than the page and turning helps."""
    return min(table, table.turned("Task"), key=lambda each: each.width) if table.width > WIDEST else table


def _renamed(table: Table, rule: str) -> Table:
    return Table(f"all-{rule}", f"Selection rule: {rule_name(rule)}. {table.caption}", *_rest(table))


def _rest(table: Table) -> tuple[Any, ...]:
    return table.columns, table.rows, table.strong


def _failures(results: GridResults) -> Table:
    columns = tuple(map(Column, ("Setting", "task", "seed", "what happened", "reason")))
    rows = tuple(
        (Value(f.cell.label), Value(f.cell.task), _seed(f.cell.seed), Value(f.kind), Value(f.reason))
        for f in results.failures
    )
    return Table("failures", f"Failed: {count(len(rows), 'run')}. They have no score.", columns, rows)


def _seed(seed: int) -> Value:
    return Value(str(seed), "", seed)


def _pending(results: GridResults) -> Table:
    """A row a setting and task: its seeds."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for cell in results.pending:
        seeds.setdefault((cell.label, cell.task), []).append(cell.seed)
    columns = tuple(map(Column, ("Setting", "task", "seeds")))
    rows = tuple(
        (Value(label), Value(task), Value(", ".join(map(str, sorted(s))))) for (label, task), s in seeds.items()
    )
    return Table("pending", f"Pending: {count(len(results.pending), 'run')}.", columns, rows)


def _facts(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in known.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            yield title, ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, (tuple, list)):
            yield title, ", ".join(map(str, value))
        else:
            yield ("time", duration(float(value))) if title == "seconds" else (title, str(value))
