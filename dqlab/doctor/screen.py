"""The examination as one screen, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dqlab.doctor.examination import Report
from dqlab.doctor.finding import Finding, State

STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}


def show(report: Report, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for group, findings in report.groups:
        table.add_row(Text(group, style="bold"))
        for finding in findings:
            table.add_row(Text(finding.state.value, style=STYLES[finding.state]), finding.name, _said(finding))
    console.print(table)
    console.print(f"{_verdict(report)} ({report.seconds:.1f} s)", soft_wrap=True)


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
