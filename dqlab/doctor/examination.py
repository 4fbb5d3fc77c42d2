"""All checks at once; none can hang the others or end them."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dqlab.doctor.finding import CHECKS, Check, Finding, State

MODULES = ("training", "environments", "records", "pictures", "more")
"""Of `dqlab.doctor.checks`, in the order in which they are shown."""
SECONDS = 15.0
"""After which a check that has not answered is given up; what runs programs gives those less."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        groups: headings with their findings, in order.
        seconds: that it took.
    """

    groups: Sequence[tuple[str, Sequence[Finding]]]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """All of them."""
        return [finding for _, found in self.groups for finding in found]

    @property
    def can_train(self) -> bool:
        """Whether all that `dqlab train` needs works."""
        return not any(finding.hinders for finding in self.findings)


def examine(seconds: float = SECONDS) -> Report:
    """Run every check, all at a time, for at most so many seconds."""
    began = time.monotonic()
    for module in MODULES:
        _load(module)
    answers: dict[Check, list[Finding]] = {}
    threads = [threading.Thread(target=_answer, args=(check, answers), daemon=True) for check in CHECKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + seconds - time.monotonic()))
    found = {check: answers.get(check) or [_late(check, seconds)] for check in CHECKS}
    return Report(_grouped(found.items()), time.monotonic() - began)


def _load(module: str) -> None:
    """Import a module of checks, or find that it cannot be imported."""
    try:
        importlib.import_module(f"dqlab.doctor.checks.{module}")
    except ImportError as error:
        found = Finding(module, State.BROKEN, str(error), "pip install dqlab", needed=True)
        CHECKS.append(Check(module.capitalize(), module, lambda: [found]))


def _answer(check: Check, answers: dict[Check, list[Finding]]) -> None:
    try:
        answers[check] = list(check.look())
    except Exception as error:  # a machine may be broken in any way
        text = f"{type(error).__name__}: {str(error)[:200]}"
        answers[check] = [Finding(check.name, State.BROKEN, text, needed=check.needed)]


def _late(check: Check, seconds: float) -> Finding:
    return Finding(check.name, State.BROKEN, f"no answer within {seconds:.0f} s", needed=check.needed)


def _grouped(found: Iterable[tuple[Check, list[Finding]]]) -> list[tuple[str, list[Finding]]]:
    groups: dict[str, list[Finding]] = {}
    for check, findings in found:
        groups.setdefault(check.group, []).extend(findings)
    return list(groups.items())
