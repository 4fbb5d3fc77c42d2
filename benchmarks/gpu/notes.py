"""What was measured, on disk from the moment it is known: a run that is killed keeps what it has."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dqlab.errors import CaptureError

Section = dict[str, Any]


class HaltError(Exception):
    """What failed is what everything else stands on: no further section is begun."""


class OutOfTime(BaseException):
    """The section's time is over; not an `Exception`, so that no one takes it for a failure of his own."""


class Notes:
    """One section of results.json.

    Args:
        path: the file.
        section: what is added goes there.
    """

    def __init__(self, path: Path, section: str) -> None:
        self._path, self._section = path, section

    def add(self, name: str, value: Any) -> None:
        """Add a figure, or a dict of figures, and say so."""
        everything = read(self._path)
        everything.setdefault(self._section, {})[name] = value
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(everything, indent=1, default=str))
        os.replace(temporary, self._path)
        print(f"{self._section}: {name}: {shown(value)}", flush=True)

    def mine(self) -> Section:
        """What this section has so far."""
        return read(self._path).get(self._section, {})

    def attempt(self, name: str, measure: Callable[[], Any]) -> Any:
        """Add what `measure` returns, or what went wrong with it; the next one is tried all the same."""
        try:
            value = measure()
        except CaptureError as error:  # this process's CUDA state is undefined from here on
            traceback.print_exc()
            self.add(name, {"error": f"{error}"[:300]})
            raise HaltError from error
        except Exception as error:
            traceback.print_exc()
            self.add(name, {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
            return None
        self.add(name, value)
        return value


def read(path: Path) -> dict[str, Section]:
    """Everything so far."""
    return json.loads(path.read_text()) if path.exists() else {}


def shown(value: Any) -> str:
    """A figure in four digits, or several."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items() if not isinstance(each, list))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(everything: dict[str, Section]) -> Iterator[str]:
    for section, found in everything.items():
        yield from (f"\n## {section}\n", "| what | figures |", "|---|---|")
        yield from (f"| {name} | {shown(value).replace('|', '/')} |" for name, value in found.items())


def write_markdown(path: Path) -> None:
    """results.md beside results.json."""
    path.with_suffix(".md").write_text("\n".join(["# GPU checks", *_lines(read(path)), ""]))
