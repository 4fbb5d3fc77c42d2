"""What a grid ends with: its report, and a table on the terminal."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dqlab.ablation.report import write_report
from dqlab.ablation.report_settings import Report
from dqlab.ablation.results import GridResults
from dqlab.ablation.statistics import Analysis, Estimate, analyse
from dqlab.console import Console
from dqlab.envs.tasks import quantity

SHOWN = 40


def close(results: GridResults, settings: Report, folder: Path, console: Console) -> None:
    """Write the report, and say what it says."""
    with console.status("computing intervals") if console.is_terminal else nullcontext():
        analysis = analyse(results, settings)
        write_report(results, settings, folder, analysis)
    console.print(score_table(analysis, settings, results.caveat))
    for caution in analysis.cautions:
        console.print(Text(f"! {caution}"), soft_wrap=True)
    console.print(f"Report: {folder / 'index.html'}", soft_wrap=True)


def score_table(analysis: Analysis, settings: Report, caveat: str) -> Table:
    """Interquartile means by selection rule, with intervals, of every setting."""
    note = f" ({caveat})" if caveat else ""
    share = f"{100 * analysis.confidence:g}%"
    title = f"{analysis.name}: interquartile mean {quantity(caveat)}{note} with {share} interval, by selection rule"
    table = Table(title=title, title_justify="left")
    table.add_column("cell")
    table.add_column("runs", justify="right")
    for rule in settings.rules:
        table.add_column(rule.replace("_", "-"), justify="right")
    table.add_column("best-online minus last (mean)", justify="right")
    gaps = {gap.label: gap.over_last for gap in analysis.gaps}
    for label in analysis.labels[:SHOWN]:
        table.add_row(*_row(analysis, settings, label, gaps.get(label)))
    if len(analysis.labels) > SHOWN:
        table.add_row(f"... and {len(analysis.labels) - SHOWN} more in the report")
    return table


def _row(analysis: Analysis, settings: Report, label: str, gap: Estimate | None) -> list[str]:
    matrix = analysis.rules[settings.rules[0]].matrices[label]
    name = label + (" (base)" if label == analysis.base else "")
    found = [analysis.rules[rule].aggregates.get(label) for rule in settings.rules]
    scores = [_text(each.iqm) if each is not None else "-" for each in found]
    return [name, str(sum(map(len, matrix.scores))), *scores, _text(gap) if gap is not None else "-"]


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.1f}"
    return f"{estimate.point:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
