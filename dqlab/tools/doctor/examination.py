"""All checks at once, none of which can hang the others or end them; and what they found, shown."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import cache
from importlib import metadata
from typing import Any

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
        state: how it is.
        text: what was found.
        fix: what to do; empty where there is nothing to be done.
        name: of what was looked at; the check's own where it is empty.
        needed: whether `dqlab train` cannot work without it; the check's own line where its check is needed.
    """

    state: State
    text: str
    fix: str = ""
    name: str = ""
    needed: bool = False

    @property
    def hinders(self) -> bool:
        """Whether `dqlab train` cannot work."""
        return self.needed and self.state in (State.MISSING, State.BROKEN)


Look = Callable[[], "DoctorFinding | Sequence[DoctorFinding]"]


@dataclass(frozen=True)
class Check:
    """Looks at one thing.

    Attributes:
        group: heading that it is shown under.
        name: of its line.
        look: gives its findings.
        needed: whether `dqlab train` cannot work without it.
    """

    group: str
    name: str
    look: Look
    needed: bool = False

    def findings(self) -> list[DoctorFinding]:
        """Its lines, whatever happens: a machine may be broken in any way."""
        try:
            found = self.look()
        except Exception as error:
            found = DoctorFinding(State.BROKEN, f"{type(error).__name__}: {str(error)[:200]}")
        return [self.own(each) for each in ([found] if isinstance(found, DoctorFinding) else found)]

    def own(self, finding: DoctorFinding) -> DoctorFinding:
        """A finding under its name."""
        return finding if finding.name else replace(finding, name=self.name, needed=self.needed)


CHECKS: list[Check] = []
"""In the order in which they are shown."""


def register_check(group: str, name: str, needed: bool = False) -> Callable[[Look], Check]:
    """Decorator: add a function to the checks."""

    def decorate(look: Look) -> Check:
        CHECKS.append(Check(group, name, look, needed))
        return CHECKS[-1]

    return decorate


MODULES = ("training", "environments", "optional")
"""Files of checks, in the order in which they are shown."""
SECONDS, PROGRAM_SECONDS = 60.0, 50.0
"""After which a check that has not answered is given up, and a program that a check runs: it may import PyTorch, which
takes a second, or half a minute on a busy machine or a slow file server."""


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        groups: headings with their findings, in order.
        seconds: that it took.
    """

    groups: dict[str, list[DoctorFinding]]
    seconds: float

    @property
    def findings(self) -> list[DoctorFinding]:
        """All of them."""
        return [finding for found in self.groups.values() for finding in found]

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
    threads = [
        threading.Thread(target=lambda check=check: answers.update({check: check.findings()}), daemon=True)
        for check in CHECKS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + seconds - time.monotonic()))
    late = DoctorFinding(State.BROKEN, f"no answer within {seconds:.0f} s")
    groups: dict[str, list[DoctorFinding]] = {}
    for check in CHECKS:
        groups.setdefault(check.group, []).extend(answers.get(check) or [check.own(late)])
    return DoctorReport(groups, time.monotonic() - began)


def _load(module: str) -> None:
    """Import a module of checks, or find that it cannot be imported."""
    try:
        importlib.import_module(f"dqlab.tools.doctor.{module}")
    except ImportError as error:
        found = DoctorFinding(State.BROKEN, str(error), "pip install dqlab")
        register_check(module.capitalize(), module, needed=True)(lambda: found)


STYLES = {State.OK: "green", State.WARNING: "yellow", State.MISSING: "dim", State.BROKEN: "bold red"}


def print_report(report: DoctorReport) -> None:
    """Print a report: findings by group, each with its fix, and the verdict."""
    console = Console()
    longest = max(len(finding.name) for finding in report.findings)
    for group, findings in report.groups.items():
        console.print(Text(group, style="bold"))
        console.print(_table(findings, longest))
    hindered = [finding.name for finding in report.findings if finding.hinders]
    verdict = "[green]All that dqlab train needs works here.[/]"
    if hindered:
        verdict = f"[bold red]dqlab train cannot work here yet: {escape(', '.join(hindered))}.[/]"
    console.print(f"{verdict} ({report.seconds:.1f} s)", soft_wrap=True)


def _table(findings: Iterable[DoctorFinding], longest: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=max(len(state.value) for state in State))
    table.add_column(width=longest, no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.text).append(f" -> {finding.fix}" if finding.fix else "", style="cyan")
        table.add_row(Text(finding.state.value, style=STYLES[finding.state]), finding.name, said)
    return table


def report_as_json(report: DoctorReport) -> str:
    """A report for programs."""
    findings = [{"group": group, **asdict(each)} for group, found in report.groups.items() for each in found]
    known = {"can_train": report.can_train, "seconds": round(report.seconds, 2), "findings": findings}
    return json.dumps(known, indent=1)


@cache
def requirements_of(extra: str = "") -> tuple[Any, ...]:
    """The requirements of dqlab, or those that an extra adds, as `packaging` reads them.

    Raises:
        PackageNotFoundError: dqlab runs from a folder and is not installed.
    """
    from packaging.requirements import Requirement

    each = [Requirement(text) for text in metadata.requires("dqlab") or []]

    def holds(item: Any, name: str) -> bool:
        return item.marker is None or bool(item.marker.evaluate({"extra": name}))

    return tuple(item for item in each if holds(item, extra) and not (extra and holds(item, "")))


def installed_version(name: str) -> str:
    """An installed version; empty for none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def unmet_requirements(requirements: tuple[Any, ...]) -> list[str]:
    """What is missing or of another version than is asked for, in words."""
    found = [(item, installed_version(item.name)) for item in requirements]
    lacking = [f"{item.name} is not installed" for item, version in found if not version]
    outside = [
        f"{item.name} {version} (wanted {item.specifier})"
        for item, version in found
        if version and not item.specifier.contains(version, prereleases=True)
    ]
    return lacking + outside


def find_extra(name: str, purpose: str) -> DoctorFinding:
    """Whether what an extra installs is there, and what it is good for."""
    requirements = requirements_of(name)
    if not requirements:
        return DoctorFinding(State.MISSING, f"not for this Python; {purpose}")
    if trouble := unmet_requirements(requirements):
        installed = all(installed_version(item.name) for item in requirements)
        state = State.WARNING if installed else State.MISSING
        return DoctorFinding(state, f"{', '.join(trouble)}; {purpose}", f"pip install 'dqlab[{name}]'")
    versions = ", ".join(f"{item.name} {installed_version(item.name)}" for item in requirements)
    return DoctorFinding(State.OK, f"{versions}: {purpose}")
