"""All checks of a machine at once, none of which can end the others; and what they found, shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
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
    """One line of the doctor's.

    Attributes:
        state: how it is.
        text: what was found.
        fix: what to do; empty where there is nothing to be done.
        name, group: of the check: what was looked at, and the heading that it is shown under.
        needed: whether `dqlab train` cannot work without it.
    """

    state: State
    text: str
    fix: str = ""
    name: str = ""
    group: str = ""
    needed: bool = False

    @property
    def hinders(self) -> bool:
        """Whether `dqlab train` cannot work."""
        return self.needed and self.state in (State.MISSING, State.BROKEN)


Look = Callable[[], DoctorFinding]


@dataclass(frozen=True)
class Check:
    """Looks at one thing; attributes as those of its finding."""

    group: str
    name: str
    look: Look
    needed: bool = False

    def finding(self) -> DoctorFinding:
        """What is found, whatever happens: a machine may be broken in any way."""
        try:
            found = self.look()
        except Exception as error:
            found = DoctorFinding(State.BROKEN, f"{type(error).__name__}: {str(error)[:200]}")
        return replace(found, name=self.name, group=self.group, needed=self.needed)


CHECKS: list[Check] = []
"""In the order in which they are shown."""


def register_check(group: str, name: str, needed: bool = False) -> Callable[[Look], Check]:
    """Decorator: add a function to the checks."""

    def decorate(look: Look) -> Check:
        CHECKS.append(Check(group, name, look, needed))
        return CHECKS[-1]

    return decorate


def examine_machine() -> list[DoctorFinding]:
    """Run every check, all at a time."""
    try:
        import dqlab.tools.doctor.checks  # noqa: F401
    except ImportError as error:
        return [DoctorFinding(State.BROKEN, str(error), "pip install dqlab", "packages", "Training", needed=True)]
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        return list(pool.map(Check.finding, CHECKS))


def can_train(findings: Sequence[DoctorFinding]) -> bool:
    """Whether all that `dqlab train` needs works."""
    return not any(finding.hinders for finding in findings)


STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}


def print_findings(findings: Sequence[DoctorFinding]) -> None:
    """Print findings by group, each with its fix, and the verdict."""
    console = Console()
    for group in dict.fromkeys(finding.group for finding in findings):
        console.print(Text(group, style="bold"))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=max(len(state.value) for state in State))
        table.add_column(width=max(len(finding.name) for finding in findings), no_wrap=True)
        table.add_column(overflow="fold")
        for finding in (each for each in findings if each.group == group):
            said = Text(finding.text).append(f" -> {finding.fix}" if finding.fix else "", style="cyan")
            table.add_row(Text(finding.state.value, style=STYLES[finding.state]), finding.name, said)
        console.print(table)
    verdict = "[green]All that dqlab train needs works here.[/]"
    if hindered := [finding.name for finding in findings if finding.hinders]:
        verdict = f"[bold red]dqlab train cannot work here yet: {escape(', '.join(hindered))}.[/]"
    console.print(verdict, soft_wrap=True)


def findings_as_json(findings: Sequence[DoctorFinding]) -> str:
    """Findings for programs."""
    return json.dumps({"can_train": can_train(findings), "findings": [asdict(each) for each in findings]}, indent=1)
