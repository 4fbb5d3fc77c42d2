"""The tables of a report, from its analysis. Every column of scores is headed by its selection rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dqlab.ablation.report.table import NOTHING, Column, Table, Value
from dqlab.ablation.report.words import MINUS, count, interval, listed, minus, p_value, points, rule_name, share
from dqlab.ablation.statistics.analysis import Aggregates, Analysis, CheckpointGap, Comparison, Estimate, TaskScores
from dqlab.envs.tasks import quantity

METRICS = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


@dataclass(frozen=True)
class Tables:
    """The tables of an analysis; `caveat` is written into every caption."""

    analysis: Analysis
    caveat: str

    @property
    def unit(self) -> str:
        """What every caption ends with: the unit, and the caveat."""
        name = "Returns" if quantity(self.caveat) == "return" else "Normalised scores"
        return f"{name}{f' ({self.caveat})' if self.caveat else ''}."

    @property
    def says(self) -> str:
        """The same where there are intervals."""
        return f"In brackets: {self.analysis.confidence:.0%} bootstrap intervals. {self.unit}"

    def aggregates(self, rules: Sequence[str], metrics: Sequence[str] = ("iqm", "mean")) -> Table:
        """A row a setting: aggregates over tasks and seeds, by each rule."""
        first, *others = (self._of_rule(rule, metrics) for rule in rules)
        named = listed([METRICS[metric] for metric in metrics])
        tasks = count(len(self.analysis.tasks), "task")
        caption = f"{named[0].upper()}{named[1:]} over {tasks}, by selection rule. {self.says}"
        return replace(first.beside(*others), caption=caption)

    def gaps(self) -> Table:
        """A row a setting: what choosing the best checkpoint online is worth."""
        gaps = {gap.label: gap for gap in self.analysis.gaps}
        columns = (
            Column("Setting"),
            Column(f"best-online {MINUS} last", "gap"),
            Column(f"best-online {MINUS} offline", "gap"),
        )
        rows = tuple(self._gap_row(label, gaps.get(label)) for label in self.analysis.labels)
        caption = f"What choosing the checkpoint by its score is worth, in points: mean over runs. {self.says}"
        return Table("gaps", caption, columns, rows, frozenset({self.analysis.base}))

    def tasks(self, rule: str) -> Table:
        """A row a setting, a column a task: mean ± standard error over seeds, by one rule."""
        analysis, chosen = self.analysis, self.analysis.rules[rule]
        found = {(scores.label, scores.task): scores for scores in chosen.per_task}
        under = rule_name(rule)
        total = (Column("all tasks", under),) if len(analysis.tasks) > 1 else ()
        columns = (Column("Setting"), *(Column(task, under) for task in analysis.tasks), *total)
        rows = tuple(
            (
                Value(label),
                *(self._scores(found.get((label, task))) for task in analysis.tasks),
                *(self._average(chosen.aggregates.get(label)) for _ in total),
            )
            for label in analysis.labels
        )
        seeds = count(len(analysis.seeds), "seed")
        caption = (
            f"Selection rule: {under}. Mean ± standard error over {seeds} (their number in brackets where fewer "
            f"have finished). {self.unit}"
        )
        return Table(f"tasks-{rule}", caption, columns, rows, frozenset({analysis.base}))

    def comparisons(self, rule: str) -> Table:
        """A row a setting other than the base: whether it is better, and how sure that is."""
        found = self.analysis.rules[rule].comparisons
        under = rule_name(rule)
        scored = (Column("P(better than base)", under), Column("IQM difference", under))
        plain = (Column("mean difference", under), Column("p", "raw"), Column("p", found.correction))
        columns = (Column("Setting"), *scored, *plain, Column("least p", "possible"), Column("verdict", under))
        rows = tuple(self._comparison(label, found.rows.get(label)) for label in self._others())
        caption = (
            f"Against {found.base}, selection rule {under}: {found.test}; p corrected after {found.correction} for "
        )
        caption += f"{count(found.comparisons, 'comparison')}. {self.says}"
        return Table(f"comparisons-{rule}", caption, columns, rows)

    def references(self) -> Table | None:
        """A row a published score: ours beside it, by the reference's rule."""
        found = self.analysis.references
        if found is None:
            return None
        under = rule_name(found.rule)
        columns = (
            Column("Setting"),
            Column("task"),
            *(Column(head, under) for head in ("ours", "published", "difference")),
            Column("published in our interval"),
        )
        rows = tuple(
            (
                Value(row.label),
                Value(row.task),
                _estimate(row.ours),
                Value(points(row.published), f"± {points(row.error)}" if row.error is not None else "", row.published),
                _difference(row.difference),
                Value({True: "yes", False: "no", None: NOTHING.text}[row.inside]),
            )
            for row in found.rows
        )
        means = tuple(
            (
                Value(mean.label),
                Value(f"average over {count(len(mean.tasks), 'task')}"),
                *(NOTHING if each is None else Value(points(each), "", each) for each in (mean.ours, mean.published)),
                _difference(mean.difference),
                NOTHING,
            )
            for mean in found.averages
        )
        source = f"Published: {found.source}. " if found.source else ""
        caption = f"Beside published scores, selection rule {under}. {source}{self.says}"
        return Table("references", caption, columns, rows + means)

    def _others(self) -> list[str]:
        return [label for label in self.analysis.labels if label != self.analysis.base]

    def _of_rule(self, rule: str, metrics: Sequence[str]) -> Table:
        chosen, under = self.analysis.rules[rule], rule_name(rule)
        columns = (Column("Setting"), *(Column(METRICS[metric], under) for metric in metrics))
        rows = tuple(
            (Value(label), *(_aggregate(chosen.aggregates.get(label), metric) for metric in metrics))
            for label in self.analysis.labels
        )
        return Table("-".join(metrics), "", columns, rows, frozenset({self.analysis.base}))

    def _gap_row(self, label: str, gap: CheckpointGap | None) -> tuple[Value, ...]:
        if gap is None:
            return Value(label), NOTHING, NOTHING
        return Value(label), _estimate(gap.over_last, signed=True), _estimate(gap.over_offline, signed=True)

    def _scores(self, scores: TaskScores | None) -> Value:
        if scores is None or scores.mean is None:
            return NOTHING
        error = f"± {points(scores.standard_error)}" if scores.standard_error is not None else ""
        some = f"({len(scores.seeds)})" if len(scores.seeds) < len(self.analysis.seeds) else ""
        return Value(points(scores.mean.point), " ".join(filter(None, (error, some))), scores.mean.point)

    def _average(self, aggregates: Aggregates | None) -> Value:
        return NOTHING if aggregates is None else Value(points(aggregates.mean.point), "", aggregates.mean.point)

    def _comparison(self, label: str, row: Comparison | None) -> tuple[Value, ...]:
        if row is None:
            return (Value(label), *(NOTHING,) * 6, Value("no runs to compare"))
        probability, around = share(row.probability)
        return (
            Value(label),
            Value(probability, around, row.probability.point),
            _estimate(row.iqm_difference, signed=True),
            _estimate(row.mean_difference, signed=True),
            *(Value(p_value(p), "", p) for p in (row.p, row.corrected, row.smallest_p)),
            Value(row.verdict),
        )


def _aggregate(aggregates: Aggregates | None, metric: str) -> Value:
    if aggregates is None:
        return NOTHING
    estimate: Estimate = getattr(aggregates, metric)
    return _gap_of_one(estimate) if metric == "optimality_gap" else _estimate(estimate)


def _gap_of_one(estimate: Estimate) -> Value:
    """An optimality gap, which is a share of 100 points."""
    text, around = share(estimate)
    return Value(minus(text), minus(around), estimate.point)


def _estimate(estimate: Estimate | None, signed: bool = False) -> Value:
    if estimate is None:
        return NOTHING
    return Value(points(estimate.point, signed), interval(estimate, signed), estimate.point)


def _difference(value: float | None) -> Value:
    return NOTHING if value is None else Value(points(value, signed=True), "", value)
