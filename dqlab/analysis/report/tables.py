"""The tables of a report, from its analysis. Every column of scores is headed by its selection rule."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from dqlab.analysis.report.words import (
    MINUS,
    counted,
    enumerate_names,
    format_interval,
    format_points,
    format_probability,
    p_value,
    typographic_minus,
)
from dqlab.analysis.statistics.analysis import Aggregates, Analysis, CheckpointGap, Comparison, Estimate, TaskScores
from dqlab.envs.caveats import score_or_return
from dqlab.tracking.selection_rules import rule_name


@dataclass(frozen=True)
class TableValue:
    """One cell: its text, a detail in small print (an interval), and what it is sorted by, if it is a number."""

    text: str
    detail: str = ""
    number: float | None = None


NOTHING = TableValue("\u2013")


@dataclass(frozen=True)
class TableColumn:
    """A column: its head, and a second line of it (the selection rule of the scores below)."""

    head: str
    under: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table whose first column names the rows.

    Attributes:
        name: for references, such as `aggregate`.
        caption: what it shows, with selection rule and caveat.
        columns, rows: as many values a row as columns.
        strong: texts of the first column whose rows stand out (the base).
    """

    name: str
    caption: str
    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[TableValue, ...], ...]
    strong: frozenset[str] = frozenset()

    def words(self) -> set[int]:
        """Places of the columns that hold words, not numbers."""
        columns = enumerate(zip(*self.rows, strict=True))
        return {place for place, column in columns if not all(_is_number(value) for value in column)}

    @property
    def width(self) -> int:
        """Characters of its widest row, about: details are small, heads may break into two lines."""
        heads = [max(len(column.head) // 2, len(column.under) // 2) for column in self.columns]
        cells = [[len(value.text) + len(value.detail) * 2 // 3 for value in row] for row in self.rows]
        return sum(max(sizes) + 2 for sizes in zip(heads, *cells, strict=True))

    def beside(self, *others: ReportTable) -> ReportTable:
        """This table with the columns of others of the same rows to its right."""
        columns = self.columns + tuple(column for other in others for column in other.columns[1:])
        extra = zip(*(other.rows for other in others), strict=True)
        rows = zip(self.rows, extra if others else [()] * len(self.rows), strict=True)
        joined = tuple(row + tuple(value for more in rest for value in more[1:]) for row, rest in rows)
        return ReportTable(self.name, self.caption, columns, joined, self.strong)

    def without(self, heads: Container[str]) -> ReportTable:
        """This table but for the columns of these heads."""
        kept = [place for place, column in enumerate(self.columns) if column.head not in heads]
        columns = tuple(self.columns[place] for place in kept)
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return ReportTable(self.name, self.caption, columns, rows, self.strong)

    def turned(self, head: str) -> ReportTable:
        """Rows as columns, the first one headed `head`; under each stands what stood under all of them."""
        heads = tuple(row[0].text for row in self.rows)
        under = {column.under for column in self.columns[1:]}
        line = under.pop() if len(under) == 1 else ""
        columns = (TableColumn(head), *(TableColumn(head, line) for head in heads))
        rows = tuple(
            (TableValue(column.head), *(row[place] for row in self.rows))
            for place, column in enumerate(self.columns)
            if place
        )
        return ReportTable(self.name, self.caption, columns, rows)


def _is_number(value: TableValue) -> bool:
    return value.number is not None or value == NOTHING


METRICS = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


@dataclass(frozen=True)
class Tables:
    """The tables of an analysis; `caveat` is written into every caption."""

    analysis: Analysis
    caveat: str

    @property
    def unit(self) -> str:
        """What every caption ends with: the unit, and the caveat."""
        name = "Returns" if score_or_return(self.caveat) == "return" else "Normalised scores"
        return f"{name}{f' ({self.caveat})' if self.caveat else ''}."

    @property
    def says(self) -> str:
        """What a caption ends with where there are intervals."""
        return f"In brackets: {self.analysis.confidence:.0%} bootstrap intervals. {self.unit}"

    def aggregates(self, rules: Sequence[str], metrics: Sequence[str] = ("iqm", "mean")) -> ReportTable:
        """A row a setting: aggregates over tasks and seeds, by each rule."""
        first, *others = (self._of_rule(rule, metrics) for rule in rules)
        named = enumerate_names([METRICS[metric] for metric in metrics])
        tasks = counted(len(self.analysis.tasks), "task")
        caption = f"{named[0].upper()}{named[1:]} over {tasks}, by selection rule. {self.says}"
        return replace(first.beside(*others), caption=caption)

    def gaps(self) -> ReportTable:
        """A row a setting: what choosing the best checkpoint online is worth."""
        gaps = {gap.label: gap for gap in self.analysis.gaps}
        columns = (
            TableColumn("Setting"),
            TableColumn(f"best-online {MINUS} last", "gap"),
            TableColumn(f"best-online {MINUS} offline", "gap"),
        )
        rows = tuple(self._gap_row(label, gaps.get(label)) for label in self.analysis.labels)
        caption = f"What choosing the checkpoint by its score is worth, in points: mean over runs. {self.says}"
        return ReportTable("gaps", caption, columns, rows, frozenset({self.analysis.base}))

    def tasks(self, rule: str) -> ReportTable:
        """A row a setting, a column a task: mean ± standard error over seeds, by one rule."""
        analysis, chosen = self.analysis, self.analysis.rules[rule]
        found = {(scores.label, scores.task): scores for scores in chosen.per_task}
        under = rule_name(rule)
        total = (TableColumn("all tasks", under),) if len(analysis.tasks) > 1 else ()
        columns = (TableColumn("Setting"), *(TableColumn(task, under) for task in analysis.tasks), *total)
        rows = tuple(
            (
                TableValue(label),
                *(self._scores(found.get((label, task))) for task in analysis.tasks),
                *(self._average(chosen.aggregates.get(label)) for _ in total),
            )
            for label in analysis.labels
        )
        seeds = counted(len(analysis.seeds), "seed")
        caption = (
            f"Selection rule: {under}. Mean ± standard error over {seeds} (their number in brackets where fewer "
            f"have finished). {self.unit}"
        )
        return ReportTable(f"tasks-{rule}", caption, columns, rows, frozenset({analysis.base}))

    def comparisons(self, rule: str) -> ReportTable:
        """A row a setting other than the base: whether it is better, and how sure that is."""
        found = self.analysis.rules[rule].comparisons
        under = rule_name(rule)
        scored = (TableColumn("P(better than base)", under), TableColumn("IQM difference", under))
        plain = (TableColumn("mean difference", under), TableColumn("p", "raw"), TableColumn("p", found.correction))
        columns = (
            TableColumn("Setting"),
            *scored,
            *plain,
            TableColumn("least p", "possible"),
            TableColumn("verdict", under),
        )
        rows = tuple(self._comparison(label, found.rows.get(label)) for label in self._others())
        caption = (
            f"Against {found.base}, selection rule {under}: {found.test}; p corrected after {found.correction} for "
        )
        caption += f"{counted(found.comparisons, 'comparison')}. {self.says}"
        return ReportTable(f"comparisons-{rule}", caption, columns, rows)

    def references(self) -> ReportTable | None:
        """A row a published score: ours beside it, by the reference's rule."""
        found = self.analysis.references
        if found is None:
            return None
        under = rule_name(found.rule)
        columns = (
            TableColumn("Setting"),
            TableColumn("task"),
            *(TableColumn(head, under) for head in ("ours", "published", "difference")),
            TableColumn("published in our interval"),
        )
        rows = tuple(
            (
                TableValue(row.label),
                TableValue(row.task),
                _estimate(row.ours),
                TableValue(
                    format_points(row.published),
                    f"± {format_points(row.error)}" if row.error is not None else "",
                    row.published,
                ),
                _difference(row.difference),
                TableValue({True: "yes", False: "no", None: NOTHING.text}[row.inside]),
            )
            for row in found.rows
        )
        means = tuple(
            (
                TableValue(mean.label),
                TableValue(f"average over {counted(len(mean.tasks), 'task')}"),
                *(
                    NOTHING if each is None else TableValue(format_points(each), "", each)
                    for each in (mean.ours, mean.published)
                ),
                _difference(mean.difference),
                NOTHING,
            )
            for mean in found.averages
        )
        source = f"Published: {found.source}. " if found.source else ""
        caption = f"Beside published scores, selection rule {under}. {source}{self.says}"
        return ReportTable("references", caption, columns, rows + means)

    def _others(self) -> list[str]:
        return [label for label in self.analysis.labels if label != self.analysis.base]

    def _of_rule(self, rule: str, metrics: Sequence[str]) -> ReportTable:
        chosen, under = self.analysis.rules[rule], rule_name(rule)
        columns = (TableColumn("Setting"), *(TableColumn(METRICS[metric], under) for metric in metrics))
        rows = tuple(
            (TableValue(label), *(_aggregate(chosen.aggregates.get(label), metric) for metric in metrics))
            for label in self.analysis.labels
        )
        return ReportTable("-".join(metrics), "", columns, rows, frozenset({self.analysis.base}))

    def _gap_row(self, label: str, gap: CheckpointGap | None) -> tuple[TableValue, ...]:
        if gap is None:
            return TableValue(label), NOTHING, NOTHING
        return TableValue(label), _estimate(gap.over_last, signed=True), _estimate(gap.over_offline, signed=True)

    def _scores(self, scores: TaskScores | None) -> TableValue:
        if scores is None or scores.mean is None:
            return NOTHING
        error = f"± {format_points(scores.standard_error)}" if scores.standard_error is not None else ""
        some = f"({len(scores.seeds)})" if len(scores.seeds) < len(self.analysis.seeds) else ""
        return TableValue(format_points(scores.mean.point), " ".join(filter(None, (error, some))), scores.mean.point)

    def _average(self, aggregates: Aggregates | None) -> TableValue:
        return (
            NOTHING
            if aggregates is None
            else TableValue(format_points(aggregates.mean.point), "", aggregates.mean.point)
        )

    def _comparison(self, label: str, row: Comparison | None) -> tuple[TableValue, ...]:
        if row is None:
            return (TableValue(label), *(NOTHING,) * 6, TableValue("no runs to compare"))
        probability, around = format_probability(row.probability)
        return (
            TableValue(label),
            TableValue(probability, around, row.probability.point),
            _estimate(row.iqm_difference, signed=True),
            _estimate(row.mean_difference, signed=True),
            *(TableValue(p_value(p), "", p) for p in (row.p, row.corrected, row.smallest_p)),
            TableValue(row.verdict),
        )


def _aggregate(aggregates: Aggregates | None, metric: str) -> TableValue:
    if aggregates is None:
        return NOTHING
    estimate: Estimate = getattr(aggregates, metric)
    return _gap_of_one(estimate) if metric == "optimality_gap" else _estimate(estimate)


def _gap_of_one(estimate: Estimate) -> TableValue:
    """An optimality gap, which is a share of 100 points."""
    text, around = format_probability(estimate)
    return TableValue(typographic_minus(text), typographic_minus(around), estimate.point)


def _estimate(estimate: Estimate | None, signed: bool = False) -> TableValue:
    if estimate is None:
        return NOTHING
    return TableValue(format_points(estimate.point, signed), format_interval(estimate, signed), estimate.point)


def _difference(value: float | None) -> TableValue:
    return NOTHING if value is None else TableValue(format_points(value, signed=True), "", value)
