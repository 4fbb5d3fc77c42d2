"""Records that cannot be read: each is named in one line, and left out where others can still be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqlab.errors import DqlabError, RunError

SHOWN = 3


class LeftOutError(RunError):
    """Some records could not be used; all others were."""


class Leaving:
    """Goes on after records that cannot be used.

    Attributes:
        out: why each of them was left out, one sentence or two.
    """

    def __init__(self) -> None:
        self.out: list[str] = []

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Leave the rest of the block out where a record cannot be used."""
        try:
            yield
        except DqlabError as error:
            self.out.append(str(error))

    def tell(self) -> None:
        """Say it once all else is done.

        Raises:
            LeftOutError: something was left out.
        """
        if self.out:
            more = len(self.out) - SHOWN
            raise LeftOutError(" ".join(self.out[:SHOWN]) + (f" And {more} more." if more > 0 else ""))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever reading a file raises becomes one message.

    Raises:
        RunError: the file is not there, or does not hold what it should.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        mend = f"Restore it from a copy, or move {path.parent} away and train again."
        raise RunError(f"{path} is damaged ({_in_short(error)}). {mend}") from error


def _in_short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:120]


def read_object(path: Path, *needed: str) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        RunError: it cannot be read, is no object, or lacks one of the `needed` names.
    """
    with reading(path):
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"a JSON object is wanted, not {type(found).__name__}")
        missing = [name for name in needed if name not in found]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
    return found


def read_summary(path: Path) -> dict[str, Any]:
    """A replica's summary, with a score by every selection rule.

    Raises:
        RunError: it is damaged.
    """
    summary = read_object(path, "task", "caveat", "physics", "selection")
    with reading(path):
        for row in summary["selection"].values():
            row["step"], float(row["score_mean"])
    return summary
