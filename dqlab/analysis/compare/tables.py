"""A comparison, as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dqlab.analysis.compare.compare import UNSET, Compared, compare_groups, find_runs
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics.analysis import Estimate
from dqlab.envs.caveats import score_or_return
from dqlab.printing import Console
from dqlab.tracking.mlflow.client import tracking_uri

MANY = 6
"""More groups than that are rows, not columns."""


def print_comparison(compared: Compared, console: Console) -> None:
    """Print what differs, the scores on every task, and warnings."""
    console.print(_differences(compared) if len(compared.groups) > 1 else Text("One configuration."))
    for task in dict.fromkeys(row.task for row, _ in compared.scores):
        console.print(_scores(compared, task))
    percent = f"{100 * compared.confidence:g}%"
    console.print(
        f"Intervals: {percent}, of the mean and the interquartile mean (IQM) over seeds, {compared.reps:,} bootstrap "
        "samples. best-online chooses a checkpoint by the score that it then reports: it is too high."
    )
    for text in compared.warnings:
        console.print(Text(f"Warning: {text}", style="yellow"), soft_wrap=True)


def _differences(compared: Compared) -> Table:
    """A table of the parameters that are not the same in all groups."""
    if not compared.different:
        return _listing(["group", "name"], [[g.letter, g.name] for g in compared.groups], "The same configuration")
    groups = compared.groups
    cells = [[group.config.get(name, UNSET) for group in groups] for name in compared.different]
    title = "What differs in configuration"
    if len(groups) > MANY:
        rows = [[g.letter, *column] for g, column in zip(groups, zip(*cells, strict=True), strict=True)]
        return _listing(["group", *compared.different], rows, title)
    header = [f"{group.letter}: {group.name}" for group in groups]
    return _listing(
        ["parameter", *header], [[n, *row] for n, row in zip(compared.different, cells, strict=True)], title
    )


def _listing(header: list[str], rows: list[list[str]], title: str) -> Table:
    table = Table(title=title)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _scores(compared: Compared, task: str) -> Table:
    rows = [(row, scores) for row, scores in compared.scores if row.task == task]
    several = len({row.digest for row, _ in rows}) > 1
    caveats = sorted({run.caveat for row, _ in rows for run in row.runs} - {""})
    said = "; ".join(caveats)
    table = Table(title=f"{task}: {score_or_return(said)}s" + (f" ({said})" if said else ""))
    for column in ("group", "seeds", "rule", "mean", "interval", "IQM", "interval"):
        table.add_column(column, justify="left" if column in ("group", "rule") else "right")
    for row, scores in rows:
        name = f"{row.group.letter}: {row.group.name}" + (f" | data {row.digest[:12]}" if several else "")
        first = [name, str(len(row.seeds))]
        for score in scores:
            table.add_row(*map(Text, (*first, score.rule.replace("_", "-"), *_shown(score.mean), *_shown(score.iqm))))
            first = ["", ""]
        table.add_section()
    return table


def _shown(estimate: Estimate) -> tuple[str, str]:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.1f}", "-"
    return f"{estimate.point:.1f}", f"{estimate.low:.1f} to {estimate.high:.1f}"


RUNS = Path("runs")


def run_compare(
    runs: Sequence[str],
    experiment: str | None,
    wanted: str,
    uri: str | None,
    rules: Sequence[str] | None,
    as_json: bool,
) -> None:
    """Compare what is named, and print it.

    Raises:
        DqlabError: something that is named is not there, or nothing has finished.
    """
    found = find_runs(runs, experiment, wanted, uri or tracking_uri(RUNS / "any"))
    compared = compare_groups(found, rules or Report().rules)
    if as_json:
        print(json.dumps(compared.as_dict(), indent=1))
    else:
        print_comparison(compared, Console())
