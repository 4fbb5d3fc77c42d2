"""All checks at once; none can hang the others or end them."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text


class State(str, Enum):
    """How something is: it works; it works, but; it is not installed, and nothing has to be; it does not work."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the examination.

    Attributes:
        name: of what was looked at.
        state: how it is.
        text: what was found.
        fix: what to do; empty where there is nothing to be done.
        needed: whether `dqlab train` cannot work without it.
    """

    name: str
    state: State
    text: str
    fix: str = ""
    needed: bool = False

    @property
    def hinders(self) -> bool:
        """Whether `dqlab train` cannot work."""
        return self.needed and self.state in (State.MISSING, State.BROKEN)


@dataclass(frozen=True)
class Check:
    """Looks at one thing.

    Attributes:
        group: heading that it is shown under.
        name: of its line, where it cannot end.
        look: gives its findings.
        needed: as in `DoctorFinding`, for a check that cannot end.
    """

    group: str
    name: str
    look: Callable[[], Iterable[DoctorFinding]]
    needed: bool = False


CHECKS: list[Check] = []
"""In the order in which they are shown."""


def register_check(
    group: str, name: str, needed: bool = False
) -> Callable[[Callable[[], Iterable[DoctorFinding]]], Check]:
    """Decorator: add a function to the checks."""

    def decorate(look: Callable[[], Iterable[DoctorFinding]]) -> Check:
        CHECKS.append(Check(group, name, look, needed))
        return CHECKS[-1]

    return decorate


MODULES = ("training", "environments", "records", "optional")
"""Files of `dqlab.tools.doctor.checks`, in the order in which they are shown."""
SECONDS = 15.0
"""After which a check that has not answered is given up; what runs programs gives those less."""


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        groups: headings with their findings, in order.
        seconds: that it took.
    """

    groups: Sequence[tuple[str, Sequence[DoctorFinding]]]
    seconds: float

    @property
    def findings(self) -> list[DoctorFinding]:
        """All of them."""
        return [finding for _, found in self.groups for finding in found]

    @property
    def can_train(self) -> bool:
        """Whether all that `dqlab train` needs works."""
        return not any(finding.hinders for finding in self.findings)


def examine_machine(seconds: float = SECONDS) -> DoctorReport:
    """Run every check, all at a time, for at most so many seconds."""
    began = time.monotonic()
    for module in MODULES:
        _load(module)
    answers: dict[Check, list[DoctorFinding]] = {}
    threads = [threading.Thread(target=_answer, args=(check, answers), daemon=True) for check in CHECKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + seconds - time.monotonic()))
    found = {check: answers.get(check) or [_late(check, seconds)] for check in CHECKS}
    return DoctorReport(_grouped(found.items()), time.monotonic() - began)


def _load(module: str) -> None:
    """Import a module of checks, or find that it cannot be imported."""
    try:
        importlib.import_module(f"dqlab.tools.doctor.checks.{module}")
    except ImportError as error:
        found = DoctorFinding(module, State.BROKEN, str(error), "pip install dqlab", needed=True)
        CHECKS.append(Check(module.capitalize(), module, lambda: [found]))


def _answer(check: Check, answers: dict[Check, list[DoctorFinding]]) -> None:
    try:
        answers[check] = list(check.look())
    except Exception as error:  # a machine may be broken in any way
        text = f"{type(error).__name__}: {str(error)[:200]}"
        answers[check] = [DoctorFinding(check.name, State.BROKEN, text, needed=check.needed)]


def _late(check: Check, seconds: float) -> DoctorFinding:
    return DoctorFinding(check.name, State.BROKEN, f"no answer within {seconds:.0f} s", needed=check.needed)


def _grouped(found: Iterable[tuple[Check, list[DoctorFinding]]]) -> list[tuple[str, list[DoctorFinding]]]:
    groups: dict[str, list[DoctorFinding]] = {}
    for check, findings in found:
        groups.setdefault(check.group, []).extend(findings)
    return list(groups.items())


STATE_WIDTH = max(len(state.value) for state in State)
STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}


def print_report(report: DoctorReport, console: Console | None = None) -> None:
    """Print a report: findings by group, each with its fix, and the verdict."""
    console = console or Console()
    longest = max(len(finding.name) for finding in report.findings)
    for group, findings in report.groups:
        console.print(Text(group, style="bold"))
        console.print(_table(findings, longest))
    console.print(f"{_verdict(report)} ({report.seconds:.1f} s)", soft_wrap=True)


def _table(findings: Sequence[DoctorFinding], longest: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=STATE_WIDTH)
    table.add_column(width=longest, no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.state.value, style=STYLES[finding.state]), finding.name, _said(finding))
    return table


def _said(finding: DoctorFinding) -> Text:
    text = Text(finding.text)
    if finding.fix:
        text.append(f" -> {finding.fix}", style="cyan")
    return text


def _verdict(report: DoctorReport) -> str:
    hindered = [finding.name for finding in report.findings if finding.hinders]
    if not hindered:
        return "[green]All that dqlab train needs works here.[/]"
    return f"[bold red]dqlab train cannot work here yet: {escape(', '.join(hindered))}.[/]"


def report_as_json(report: DoctorReport) -> str:
    """A report for programs."""
    findings = [{"group": group, **asdict(finding)} for group, found in report.groups for finding in found]
    known = {"can_train": report.can_train, "seconds": round(report.seconds, 2), "findings": findings}
    return json.dumps(known, indent=1)
