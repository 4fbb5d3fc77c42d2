"""The tables of a report, from its analysis. Every column of scores is headed by its selection rule."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dqlab.analysis.cautions import CORRECTION
from dqlab.analysis.checkpoint_choice import COMMON, choice_name
from dqlab.analysis.results import GridResults
from dqlab.analysis.statistics import METRICS, TEST, Analysis, one_figure
from dqlab.analysis.wording import (
    MINUS,
    counted,
    enumerate_names,
    format_interval,
    format_points,
    p_value,
    typographic_minus,
)
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
    """A column: its head, a second line of it (the selection rule of the scores below), and its values."""

    head: str
    under: str
    values: Sequence[TableValue]

    @cached_property
    def is_text(self) -> bool:
        """Whether it holds words, not numbers."""
        return any(value.number is None and value != NOTHING for value in self.values)


@dataclass(frozen=True)
class ReportTable:
    """A table whose first column names the rows.

    Attributes:
        name: for references, such as `iqm-mean`.
        caption: what it shows, with selection rule and caveat.
        columns: with as many values each.
        strong: text of the first column whose row stands out (the base).
    """

    name: str
    caption: str
    columns: tuple[TableColumn, ...]
    strong: str | None = None

    @property
    def rows(self) -> list[tuple[TableValue, ...]]:
        """Its values, row by row."""
        return list(zip(*(column.values for column in self.columns), strict=True))

    def without(self, heads: Container[str]) -> ReportTable:
        """This table but for the columns of these heads."""
        return replace(self, columns=tuple(column for column in self.columns if column.head not in heads))

    def turned(self, head: str) -> ReportTable:
        """Rows as columns, the first one headed `head`; under each stands what stood under all of them."""
        names, *columns = self.columns
        under = columns[0].under if len({column.under for column in columns}) == 1 else ""
        first = TableColumn(head, "", [TableValue(column.head) for column in columns])
        rows = zip(names.values, self.rows, strict=True)
        return replace(self, columns=(first, *(TableColumn(n.text, under, r[1:]) for n, r in rows)), strong=None)


def rich_table(table: ReportTable, most: int | None = None) -> Group:
    """The table for a terminal, below its caption; rows beyond `most` are only counted."""
    shown = Table()
    for column in table.columns:
        justify: Any = "left" if column.is_text else "right"
        shown.add_column(f"{column.head}\n{column.under}".rstrip(), justify=justify, overflow="fold")
    for first, *others in table.rows[:most]:
        name = first.text + (" (base)" if first.text == table.strong else "")
        shown.add_row(Text(name), *(Text(f"{value.text} {value.detail}".rstrip()) for value in others))
    if most is not None and len(table.rows) > most:
        shown.add_row(f"... and {len(table.rows) - most} more in the report")
    return Group(Text(table.caption), shown)


def aggregate_table(analysis: Analysis, rules: Sequence[str], metrics: Sequence[str] = ("iqm", "mean")) -> ReportTable:
    """A row a setting: aggregates over tasks and seeds, by each rule."""
    columns = [
        _estimates(analysis, rule, metric, NAMES[metric], rule_name(rule)) for rule in rules for metric in metrics
    ]
    named = enumerate_names([NAMES[metric] for metric in metrics])
    tasks = counted(len(analysis.results.tasks), "task")
    caption = f"{named[0].upper()}{named[1:]} over {tasks}, by selection rule. {_intervals(analysis)}"
    return _by_setting(analysis, "-".join(metrics), caption, columns)


NAMES = {**{metric: metric for metric in METRICS}, "iqm": "IQM", "optimality_gap": "optimality gap"}


def gap_table(analysis: Analysis) -> ReportTable:
    """A row a setting: what choosing the best checkpoint online is worth."""
    columns = [
        _estimates(analysis, "best_online", f"over_{rule}", f"best-online {MINUS} {rule}", "gap")
        for rule in ("last", "offline")
    ]
    caption = "What choosing the checkpoint by its score is worth, in points: mean over runs. "
    return _by_setting(analysis, "gaps", caption + _intervals(analysis), columns)


def common_table(analysis: Analysis) -> ReportTable:
    """A row a setting: what choosing one checkpoint for all of its seeds is worth, and how much of it is no luck."""
    labels = analysis.results.labels
    found = analysis.gains.set_index(["rule", "setting"])
    columns = []
    for rule, name in COMMON.items():
        own = found.reindex([(rule, label) for label in labels])
        for figure, head, under in (("gain", f"{name} {MINUS} last", "gap"), ("held_out", "held out", name)):
            columns.append(TableColumn(head, under, estimate_values(one_figure(own, figure), signed=True)))
    known = found.reindex([("last", label) for label in labels])
    numbers = [
        NOTHING if math.isnan(row.most) else _range(int(row.fewest), int(row.most)) for row in known.itertuples()
    ]
    caption = (
        "Best common: one step for all seeds of a setting, on each task its own or for all tasks together. Held out: "
        "its gain where the other seeds choose for each seed, which leaves luck out. Mean over runs, in points. A gain "
        "is at least 0; its interval, moved back by what resampling adds to a best, may begin below. "
    )
    columns.append(TableColumn("checkpoints", "to choose from", numbers))
    return _by_setting(analysis, "common", caption + _intervals(analysis), columns)


def _range(fewest: int, most: int) -> TableValue:
    return TableValue(str(most) if fewest == most else f"{fewest}\u2013{most}", "", most)


def order_table(analysis: Analysis) -> ReportTable:
    """A row a rule: how it orders the settings, beside their order by the last checkpoint."""
    rows = list(analysis.orders.itertuples())
    columns = (
        TableColumn("Order by", "", [TableValue(choice_name(row.rule)) for row in rows]),
        TableColumn("Kendall's tau", "with last", [_share(row.tau, math.nan, math.nan) for row in rows]),
        TableColumn("pairs that swap", "", [TableValue(f"{row.swaps} of {row.pairs}", "", row.swaps) for row in rows]),
        TableColumn("resamples", "in this order", [_percent(row.kept) for row in rows]),
    )
    caption = "The order of settings by their mean over tasks, by each rule. "
    return ReportTable("orders", caption + _unit(analysis.results.caveat), columns)


def swap_table(analysis: Analysis, most: int = 5) -> ReportTable:
    """A row a pair of settings that a rule orders otherwise than the last checkpoint does: the surest of each rule."""
    rows = list(analysis.swaps.groupby("rule", sort=False).head(most).itertuples())
    columns = (
        TableColumn("By rule", "", [TableValue(choice_name(row.rule)) for row in rows]),
        TableColumn("higher", "", [TableValue(row.higher) for row in rows]),
        TableColumn("lower", "", [TableValue(row.lower) for row in rows]),
        TableColumn("difference", "by this rule", [_points(row.by_rule, signed=True) for row in rows]),
        TableColumn("difference", "last", [_points(row.by_last, signed=True) for row in rows]),
        TableColumn("resamples", "with this swap", [_percent(row.share) for row in rows]),
    )
    caption = f"Pairs of settings that change places when checkpoints are chosen: of each rule the {most} surest. "
    return ReportTable("swaps", caption + _unit(analysis.results.caveat), columns)


def _percent(share: float) -> TableValue:
    return NOTHING if math.isnan(share) else TableValue(f"{share:.0%}", "", share)


def task_table(analysis: Analysis, rule: str) -> ReportTable:
    """Mean ± standard error over seeds, by one rule: a row a setting, or, where there are more tasks, a row a task."""
    under, results = rule_name(rule), analysis.results
    columns = [TableColumn(task, under, _task_values(analysis, rule, task)) for task in results.tasks]
    if len(results.tasks) > 1:
        means = analysis.figure(rule, "mean").point.reindex(results.labels)
        columns.append(TableColumn("all tasks", under, [_points(mean) for mean in means]))
    caption = (
        f"Selection rule: {under}. Mean ± standard error over {counted(len(results.seeds), 'seed')} (their number in "
        f"brackets where fewer have finished). {_unit(results.caveat)}"
    )
    table = _by_setting(analysis, f"tasks-{rule}", caption, columns)
    return table.turned("Task") if len(results.tasks) > len(results.labels) else table


def comparison_table(analysis: Analysis, rule: str) -> ReportTable:
    """A row a setting other than the base: whether it is better, and how sure that is."""
    under, results = rule_name(rule), analysis.results
    labels = [label for label in results.labels if label != results.base]
    found = analysis.compared(rule)
    tests = found.reindex(labels)
    scored = {"probability": "P(better than base)", "iqm_difference": "IQM difference"}
    columns = [
        *(_estimates(analysis, rule, metric, head, under, labels) for metric, head in scored.items()),
        _estimates(analysis, rule, "mean_difference", "mean difference", under, labels),
        TableColumn("p", "raw", [_p(p) for p in tests.p]),
        TableColumn("p", CORRECTION, [_p(p) for p in tests.corrected]),
        TableColumn("least p", "possible", [_p(p) for p in tests.smallest_p]),
        TableColumn("verdict", under, [TableValue(text) for text in tests.verdict.fillna("no runs to compare")]),
    ]
    caption = (
        f"Against {results.base}, selection rule {under}: {TEST}; p corrected after {CORRECTION} for "
        f"{counted(len(found), 'comparison')}. {_intervals(analysis)}"
    )
    return ReportTable(f"comparisons-{rule}", caption, (_names(labels), *columns))


def reference_table(analysis: Analysis) -> ReportTable:
    """A row a published score, ours beside it by the reference's rule; then averages over the tasks that both have."""
    settings, rows = analysis.settings, list(analysis.references.itertuples())
    means = list(analysis.reference_means.itertuples())
    under = rule_name(settings.reference_rule)
    published = [replace(_points(row.published), detail=_error(row.error)) for row in rows]
    inside = [TableValue({True: "yes", False: "no"}.get(row.inside, NOTHING.text)) for row in rows]
    tasks = [*(row.task for row in rows), *(f"average over {counted(len(row.tasks), 'task')}" for row in means)]
    columns = (
        _names([*(row.setting for row in rows), *(row.Index for row in means)]),
        TableColumn("task", "", [TableValue(task) for task in tasks]),
        TableColumn("ours", under, [*estimate_values(analysis.references), *(_points(row.point) for row in means)]),
        TableColumn("published", under, [*published, *(_points(row.published) for row in means)]),
        TableColumn("difference", under, [_points(row.difference, signed=True) for row in (*rows, *means)]),
        TableColumn("published in our interval", "", [*inside, *(NOTHING for _ in means)]),
    )
    source = f"Published: {settings.reference_source}. " if settings.reference_source else ""
    caption = f"Beside published scores, selection rule {under}. {source}{_intervals(analysis)}"
    return ReportTable("references", caption, columns)


def failure_table(results: GridResults) -> ReportTable:
    """A row a failed run: when it stopped, and why."""
    cells = [failure.cell for failure in results.failures]
    columns = (
        _names([cell.label for cell in cells]),
        TableColumn("task", "", [TableValue(cell.task) for cell in cells]),
        TableColumn("seed", "", [TableValue(str(cell.seed), "", cell.seed) for cell in cells]),
        TableColumn("what happened", "", [TableValue(each.failure) for each in results.failures]),
        TableColumn("reason", "", [TableValue(each.reason) for each in results.failures]),
    )
    return ReportTable("failures", f"Failed: {counted(len(cells), 'run')}. They have no score.", columns)


def pending_table(results: GridResults) -> ReportTable:
    """A row a setting and task: its seeds."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for cell in (status.cell for status in results.pending):
        seeds.setdefault((cell.label, cell.task), []).append(cell.seed)
    columns = (
        _names([label for label, _ in seeds]),
        TableColumn("task", "", [TableValue(task) for _, task in seeds]),
        TableColumn("seeds", "", [TableValue(", ".join(map(str, sorted(each)))) for each in seeds.values()]),
    )
    return ReportTable("pending", f"Pending: {counted(len(results.pending), 'run')}.", columns)


def _unit(caveat: str) -> str:
    """What every caption ends with: the unit, and the caveat."""
    name = "Returns" if score_or_return(caveat) == "return" else "Normalised scores"
    return f"{name}{f' ({caveat})' if caveat else ''}."


def _intervals(analysis: Analysis) -> str:
    """What a caption ends with where there are intervals."""
    return f"In brackets: {analysis.settings.confidence:.0%} bootstrap intervals. {_unit(analysis.results.caveat)}"


def _names(labels: Sequence[str]) -> TableColumn:
    return TableColumn("Setting", "", [TableValue(label) for label in labels])


def _by_setting(analysis: Analysis, name: str, caption: str, columns: Sequence[TableColumn]) -> ReportTable:
    return ReportTable(name, caption, (_names(analysis.results.labels), *columns), analysis.results.base)


def _estimates(
    analysis: Analysis, rule: str, metric: str, head: str, under: str, labels: Sequence[str] = ()
) -> TableColumn:
    found = analysis.figure(rule, metric).reindex(labels or analysis.results.labels)
    if metric in ("probability", "optimality_gap"):  # shares, not points
        return TableColumn(head, under, [_share(row.point, row.low, row.high) for row in found.itertuples()])
    return TableColumn(head, under, estimate_values(found, signed=metric not in METRICS))


def estimate_values(found: pd.DataFrame, signed: bool = False) -> list[TableValue]:
    """Points with their intervals."""
    return [
        replace(_points(row.point, signed), detail=format_interval(row.low, row.high, signed))
        for row in found.itertuples()
    ]


def _points(value: float, signed: bool = False) -> TableValue:
    return NOTHING if math.isnan(value) else TableValue(format_points(value, signed), "", float(value))


def _share(point: float, low: float, high: float) -> TableValue:
    """Two decimals; an optimality gap may be negative."""
    if math.isnan(point):
        return NOTHING
    around = "" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"
    return TableValue(typographic_minus(f"{point:.2f}"), typographic_minus(around), float(point))


def _p(p: float) -> TableValue:
    return NOTHING if math.isnan(p) else TableValue(p_value(p), "", float(p))


def _task_values(analysis: Analysis, rule: str, task: str) -> list[TableValue]:
    """Mean ± standard error, and the number of seeds where some have not finished."""
    known, whole = analysis.task_scores, len(analysis.results.seeds)
    own = known[(known.index.get_level_values("rule") == rule) & (known.index.get_level_values("task") == task)]
    rows = own.droplevel(["rule", "task"]).reindex(analysis.results.labels)
    means = analysis.figure(rule, "mean", task).point.reindex(analysis.results.labels)
    return [
        NOTHING
        if math.isnan(mean)
        else replace(_points(mean), detail=" ".join(filter(None, (_error(error), _fewer(seeds, whole)))))
        for mean, error, seeds in zip(means, rows.standard_error, rows.seeds, strict=True)
    ]


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"± {format_points(error)}"


def _fewer(seeds: Sequence[int], whole: int) -> str:
    return f"({len(seeds)})" if len(seeds) < whole else ""
