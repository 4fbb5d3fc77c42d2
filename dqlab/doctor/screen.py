"""The examination as one screen, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dqlab.doctor.examination import Report
from dqlab.doctor.finding import Finding, State

STATE_WIDTH = max(len(state.value) for state in State)
STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}


def show(report: Report, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    longest = max(len(finding.name) for finding in report.findings)
    for group, findings in report.groups:
        console.print(Text(group, style="bold"))
        console.print(_table(findings, longest))
    console.print(f"{_verdict(report)} ({report.seconds:.1f} s)", soft_wrap=True)


def _table(findings: Sequence[Finding], longest: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=STATE_WIDTH)
    table.add_column(width=longest, no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.state.value, style=STYLES[finding.state]), finding.name, _said(finding))
    return table


def _said(finding: Finding) -> Text:
    text = Text(finding.text)
    if finding.fix:
        text.append(f" -> {finding.fix}", style="cyan")
    return text


def _verdict(report: Report) -> str:
    hindered = [finding.name for finding in report.findings if finding.hinders]
    if not hindered:
        return "[green]All that dqlab train needs works here.[/]"
    return f"[bold red]dqlab train cannot work here yet: {escape(', '.join(hindered))}.[/]"


def as_json(report: Report) -> str:
    """The same for programs."""
    findings = [{"group": group, **asdict(finding)} for group, found in report.groups for finding in found]
    known = {"can_train": report.can_train, "seconds": round(report.seconds, 2), "findings": findings}
    return json.dumps(known, indent=1)
