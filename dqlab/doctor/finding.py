"""What a check finds, and the list of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How something is: it works; it works, but; it is not installed, and nothing has to be; it does not work."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
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
        needed: as in `Finding`, for a check that cannot end.
    """

    group: str
    name: str
    look: Callable[[], Iterable[Finding]]
    needed: bool = False


CHECKS: list[Check] = []
"""In the order in which they are shown."""


def check(group: str, name: str, needed: bool = False) -> Callable[[Callable[[], Iterable[Finding]]], Check]:
    """Decorator: add a function to the checks."""

    def decorate(look: Callable[[], Iterable[Finding]]) -> Check:
        CHECKS.append(Check(group, name, look, needed))
        return CHECKS[-1]

    return decorate
