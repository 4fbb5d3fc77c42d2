"""The tables of a report, as texts, and as LaTeX. Every column of scores is headed by its selection rule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dqlab.analysis.choosing import COMMON
from dqlab.analysis.resampling import METRICS
from dqlab.analysis.results import GridResults
from dqlab.analysis.statistics import COMPARED, CORRECTION, TEST, Analysis, one_figure
from dqlab.errors import score_or_return
from dqlab.printing import MINUS, NOTHING, counted, enumerate_names, format_interval, format_points, p_value
from dqlab.tracking.selection_rules import rule_name

NUMBER = re.compile(rf"[<+{MINUS}]? ?\d|{NOTHING}$")
NAME_WIDTH = 32  # columns of a terminal that a row's name has before it is broken
Heads = Sequence[str | tuple[str, str]]
NAMES = {**{metric: metric for metric in METRICS}, "iqm": "IQM", "optimality_gap": "optimality gap"}


@dataclass(frozen=True)
class ReportTable:
    """A table of texts."""

    name: str  # for references, such as `iqm-mean`
    caption: str  # what it shows, with selection rule and caveat
    cells: pd.DataFrame
    """Rows by name, columns by head and what stands below it (the selection rule of its scores). The second line of a
    cell is in small print (an interval)."""
    strong: str | None = None  # the row that stands out (the base)

    @cached_property
    def columns(self) -> list[tuple[str, str, bool]]:
        """Of each column, that of names first: head, what stands below it, and whether it holds words, not numbers."""
        words = [not all(map(NUMBER.match, values)) for _, values in self.cells.items()]
        heads = [(*both, each) for both, each in zip(self.cells, words, strict=True)]
        return [(self.cells.index.name, "", True), *heads]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Its texts row by row, the name first."""
        return list(self.cells.itertuples(name=None))

    def turned(self, head: str) -> ReportTable:
        """Rows as columns, the first one headed `head`; below each stands what stood below the first one."""
        under = self.cells.columns[0][1]
        cells = self.cells.T.droplevel(1).rename_axis(head)
        return replace(self, cells=cells.set_axis([(name, under) for name in self.cells.index], axis=1), strong=None)


def text_table(name: str, caption: str, heads: Heads, rows: Iterable[Sequence[str]]) -> ReportTable:
    """A table of rows, whose first text names each; of a column, its head and perhaps what stands below that."""
    both = [(head, "") if isinstance(head, str) else head for head in heads]
    cells = pd.DataFrame(list(rows), columns=pd.MultiIndex.from_tuples(both), dtype=object)
    return ReportTable(name, caption, cells.set_index(both[0]).rename_axis(both[0][0]))


def rich_table(table: ReportTable, most: int | None = None) -> Group:
    """The table for a terminal, below its caption; rows beyond `most` are only counted."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head, under, words in table.columns:
        shown.add_column(f"{head}\n{under}".rstrip(), justify="left" if words else "right", overflow="fold")
    shown.columns[0].min_width = min(NAME_WIDTH, max(map(len, table.cells.index), default=0))
    for first, *others in table.rows[:most]:
        name = first + (" (base)" if first == table.strong else "")
        shown.add_row(Text(name), *map(Text, others))
    if most is not None and len(table.rows) > most:
        shown.add_row(f"... and {len(table.rows) - most} more in the report")
    return Group(Text(table.caption), shown)


def aggregate_table(analysis: Analysis, rules: Sequence[str], metrics: Sequence[str] = ("iqm", "mean")) -> ReportTable:
    """A row a setting: aggregates over tasks and seeds, by each rule."""
    both = product(rules, metrics)
    columns = {(NAMES[metric], rule_name(rule)): _figure_texts(analysis, rule, metric) for rule, metric in both}
    named = enumerate_names([NAMES[metric] for metric in metrics])
    tasks = counted(len(analysis.results.tasks), "task")
    caption = f"{named[0].upper()}{named[1:]} over {tasks}, by selection rule. {_intervals(analysis)}"
    return _by_setting(analysis, "-".join(metrics), caption, columns)


def choice_table(analysis: Analysis) -> ReportTable:
    """A row a setting: what choosing a checkpoint is worth, for each run or for all seeds; what is left held out."""
    gains, columns = analysis.gains, {(f"best-online {MINUS} last", "gap"): _gains(analysis, "best_online")}
    for rule, name in COMMON.items():
        columns[f"{name} {MINUS} last", "gap"] = _gains(analysis, rule)
        columns["held out", name] = _gains(analysis, rule, "held_out")
    last = gains[gains.rule == "last"].set_index("setting")
    counts = [str(row.most) if row.fewest == row.most else f"{row.fewest}\u2013{row.most}" for row in last.itertuples()]
    columns["checkpoints", "to choose from"] = pd.Series(counts, last.index, dtype=object)
    caption = "Best-online: each run has its own best checkpoint. Best common: one step for all seeds of a setting, on "
    caption += "each task its own or for all tasks together. "
    caption += "Held out: its gain where the other seeds choose for each seed, which leaves luck out. Mean over runs, "
    caption += "in points. A gain is at least 0 unless held out; its interval, moved back by what resampling adds to a "
    caption += "best, may begin below. "
    return _by_setting(analysis, "choices", caption + _intervals(analysis), columns)


def _gains(analysis: Analysis, rule: str, figure: str = "gain") -> pd.Series:
    gains = analysis.gains
    return with_intervals(one_figure(gains[gains.rule == rule].set_index("setting"), figure), signed=True)


def order_table(analysis: Analysis, most: int = 5) -> ReportTable:
    """A row a rule: how it orders the settings, beside their order by the last checkpoint, and pairs that swap."""
    heads: Heads = [
        "Order by",
        ("Kendall's tau", "with last"),
        "pairs that swap",
        ("resamples", "in this order"),
        "such as",
    ]
    rows = []
    for row in analysis.orders.itertuples():
        changed = "; ".join(f"{higher} above {lower}" for higher, lower in row.changed[:most])
        changed += "; ..." if row.swaps > most else ""
        kept = NOTHING if math.isnan(row.kept) else f"{row.kept:.0%}"
        numbers = (format_points(row.tau, decimals=2), f"{row.swaps} of {row.pairs}", kept)
        rows.append((COMMON.get(row.rule) or rule_name(row.rule), *numbers, changed or NOTHING))
    caption = f"The order of settings by their mean over tasks, by each rule. {_unit(analysis.results.caveat)}"
    return text_table("orders", caption, heads, rows)


def task_table(analysis: Analysis, rule: str) -> ReportTable:
    """Mean ± standard error over seeds, by one rule: a row a setting, or, where there are more tasks, a row a task."""
    under, results = rule_name(rule), analysis.results
    columns = {}
    for task in results.tasks:
        rows = analysis.task_scores.query("rule == @rule and task == @task").droplevel(["rule", "task"])
        texts = []
        for row in rows.join(analysis.figure(rule, "mean", task).point).itertuples():
            number = f"({len(row.seeds)})" if len(row.seeds) < len(results.seeds) else ""
            texts.append(f"{format_points(row.point)}\n{f'{_error(row.standard_error)} {number}'.strip()}")
        columns[task, under] = pd.Series(texts, rows.index, dtype=object)
    if len(results.tasks) > 1:
        columns["all tasks", under] = analysis.figure(rule, "mean").point.map(format_points)
    seeds = counted(len(results.seeds), "seed")
    caption = f"Selection rule: {under}. Mean ± standard error over {seeds} (their number in brackets where fewer have "
    caption += f"finished). {_unit(results.caveat)}"
    table = _by_setting(analysis, f"tasks-{rule}", caption, columns)
    return table.turned("Task") if len(results.tasks) > len(results.labels) else table


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"± {format_points(error)}"


def comparison_table(analysis: Analysis, rule: str) -> ReportTable:
    """A row a setting other than the base: whether it is better, and how sure that is."""
    under, results, tests = rule_name(rule), analysis.results, analysis.compared(rule)
    scored = dict(zip(COMPARED, ("P(better than base)", "IQM difference", "mean difference"), strict=True))
    columns = {
        **{(head, under): _figure_texts(analysis, rule, metric) for metric, head in scored.items()},
        ("p", "raw"): tests.p.map(p_value),
        ("p", CORRECTION): tests.corrected.map(p_value),
        ("least p", "possible"): tests.smallest_p.map(p_value),
        ("verdict", under): tests.verdict.reindex(results.labels, fill_value="no runs to compare"),
    }
    caption = f"Against {results.base}, selection rule {under}: {TEST}; p corrected after {CORRECTION} for "
    caption += f"{counted(len(tests), 'comparison')}. {_intervals(analysis)}"
    table = _by_setting(analysis, f"comparisons-{rule}", caption, columns)
    return replace(table, cells=table.cells.drop(index=results.base), strong=None)


def reference_table(analysis: Analysis) -> ReportTable:
    """A row a published score, ours beside it by the reference's rule; then averages over the tasks that both have."""
    settings, means = analysis.settings, analysis.reference_means.reset_index()
    under = rule_name(settings.reference_rule)
    over = means.assign(task=[f"average over {counted(len(tasks), 'task')}" for tasks in means.tasks])
    known = pd.concat([analysis.references.astype({"inside": object}), over], ignore_index=True)
    scored = ((head, under) for head in ("ours", "published", "difference"))
    heads: Heads = ["Setting", "task", *scored, "published in our interval"]
    rows = []
    for row, ours in zip(known.itertuples(), with_intervals(known), strict=True):
        published = f"{format_points(row.published)}\n{_error(row.error)}".rstrip()
        inside = {True: "yes", False: "no"}.get(row.inside, NOTHING)
        rows.append((row.setting, row.task, ours, published, format_points(row.difference, signed=True), inside))
    source = f"Published: {settings.reference_source}. " if settings.reference_source else ""
    caption = f"Beside published scores, selection rule {under}. {source}{_intervals(analysis)}"
    return text_table("references", caption, heads, rows)


def failure_table(results: GridResults) -> ReportTable:
    """A row a failed run: when it stopped, and why."""
    heads = ["Setting", "task", "seed", "what happened", "reason"]
    rows = [(s.cell.label, s.cell.task, str(s.cell.seed), s.failure, s.reason) for s in results.failures]
    return text_table("failures", f"Failed: {counted(len(rows), 'run')}. They have no score.", heads, rows)


def _unit(caveat: str) -> str:
    """What every caption ends with: the unit, and the caveat."""
    name = "Returns" if score_or_return(caveat) == "return" else "Normalised scores"
    return f"{name}{f' ({caveat})' if caveat else ''}."


def _intervals(analysis: Analysis) -> str:
    """What a caption ends with where there are intervals."""
    return f"In brackets: {analysis.settings.interval}s. {_unit(analysis.results.caveat)}"


def _by_setting(
    analysis: Analysis, name: str, caption: str, columns: Mapping[tuple[str, str], pd.Series]
) -> ReportTable:
    """A row a setting; what it lacks is a dash."""
    labels = analysis.results.labels
    texts = {column: known.reindex(labels).astype(object) for column, known in columns.items()}
    cells = pd.DataFrame(texts).rename_axis("Setting")
    return ReportTable(name, caption, cells.where(cells.notna(), NOTHING), analysis.results.base)


def _figure_texts(analysis: Analysis, rule: str, metric: str) -> pd.Series:
    """A figure of all settings; those in points that may be negative are signed."""
    share = metric in ("probability", "optimality_gap")
    return with_intervals(analysis.figure(rule, metric), metric not in METRICS and not share, 2 if share else 1)


def with_intervals(found: pd.DataFrame, signed: bool = False, decimals: int = 1) -> pd.Series:
    """Points, and their intervals below."""
    texts = [
        f"{format_points(row.point, signed, decimals)}\n{format_interval(row.low, row.high, signed, decimals)}".rstrip()
        for row in found.itertuples()
    ]
    return pd.Series(texts, found.index, dtype=object)


HEAD = r"""% Written by dqlab from the grid '{name}'. Wants \usepackage{{booktabs}}; then \input{{tables.tex}}.
% Every score stands with its selection rule{caveat}.
"""
SPECIAL = {character: rf"\{character}" for character in "{}$&#%_"}
SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "…": r"\ldots{}"}
SPECIAL |= {"±": r"$\pm$", "\u2212": "$-$", "\u2013": "--", "\u00d7": r"$\times$"}


def latex_tables(analysis: Analysis) -> str:
    r"""Tables of aggregates, choices, orders, tasks, comparisons by each rule, and published scores: booktabs."""
    results, settings, several = analysis.results, analysis.settings, len(analysis.results.labels) > 1
    shown = [aggregate_table(analysis, settings.rules, (metric,)) for metric in ("iqm", "mean")]
    shown.append(choice_table(analysis))
    orders = order_table(analysis)
    shown += [replace(orders, cells=orders.cells.drop(columns="such as", level=0))] if several else []
    for rule in settings.rules:
        shown.append(task_table(analysis, rule))
        if several:
            table = comparison_table(analysis, rule)
            shown.append(replace(table, cells=table.cells.drop(columns="least p", level=0)))
    shown += [reference_table(analysis)] if settings.reference else []
    caveat = f" and is {results.caveat}" if results.caveat else ""
    return HEAD.format(name=" ".join(results.name.split()), caveat=caveat) + "\n".join(map(latex_table, shown))


def latex_table(table: ReportTable) -> str:
    """A booktabs table."""
    heads = [(escape_latex(head), _small("footnotesize", under)) for head, under, _ in table.columns]
    columns = pd.Index(heads if any(under for _, under in heads) else [head for head, _ in heads])
    rows = []
    for first, *others in table.rows:
        name, texts = escape_latex(first), (text.partition("\n") for text in others)
        cells = [f"{escape_latex(value)} {_small('scriptsize', detail)}".rstrip() for value, _, detail in texts]
        rows.append([rf"\textbf{{{name}}}" if first == table.strong else name, *cells])
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


def _small(size: str, text: str) -> str:
    return rf"{{\{size} {escape_latex(text)}}}" if text else ""


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it literally; letters that pdfLaTeX does not have are left as they are, for LuaLaTeX."""
    escaped = "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
