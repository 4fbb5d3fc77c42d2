"""One benchmark, measured once: what it is called, what it was, what came out, on what and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dqlab.benchmarking.measuring import FIGURES
from dqlab.errors import BenchmarkError

UNKNOWN_COMMITS = ("unversioned", "unknown")


@dataclass(frozen=True)
class Record:
    """One benchmark, measured once.

    Attributes:
        name: pytest's full name of the benchmark.
        parameters: what tells it from others; `part` says which plot it belongs to.
        figures: pytest-benchmark's statistics (seconds) and what `measure` adds.
        machine: the machine's kind.
        when: UTC.
        facts: CPU, GPU, cores, versions, commit, session; all text.
    """

    name: str
    parameters: Mapping[str, Any]
    figures: Mapping[str, float]
    machine: str
    when: datetime
    facts: Mapping[str, str]

    @property
    def part(self) -> str:
        """What is measured: sampler, update, evaluation, data, ...; `other` if it is not said."""
        return str(self.parameters.get("part", "other"))

    @property
    def conditions(self) -> dict[str, Any]:
        """The parameters without `part`."""
        return {name: value for name, value in self.parameters.items() if name != "part"}

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return self.figures["median"]

    @property
    def ratio(self) -> float | None:
        """How many times faster than its baseline; None without one."""
        return self.figures.get("ratio")

    @property
    def commit(self) -> str:
        """The commit in short, with a + if the code was not exactly that; `-` outside a checkout."""
        commit, _, changes = self.facts.get("git_commit", "").partition("+")
        return (commit[:9] + ("+" if changes else "")) or "-"


def read_document(path: Path) -> dict[str, Any]:
    """pytest-benchmark's JSON of a session in which dqlab's plugin was loaded.

    Raises:
        BenchmarkError: there is no such file, or it is something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(document, dict) or not document.get("benchmarks") or "dqlab" not in document:
        raise BenchmarkError(
            f"{path} holds no benchmarks of dqlab. Write it with: pytest benchmarks/ --benchmark-json={path}"
        )
    return document


def records_of(document: Mapping[str, Any]) -> list[Record]:
    """The benchmarks of a document."""
    machine = document["dqlab"]["machine"]
    when = datetime.fromisoformat(document["datetime"])
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    facts = _facts(document, machine)
    return [
        Record(item["fullname"], _parameters(item), _figures(item), machine["kind"], when, facts)
        for item in document["benchmarks"]
    ]


def _facts(document: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, str]:
    commit = document.get("commit_info", {})
    known = commit.get("id", "unknown") not in UNKNOWN_COMMITS
    return {
        "session": document["dqlab"]["session"],
        **{name: str(machine[name]) for name in ("cpu", "gpu", "cores")},
        **{f"version.{name}": version for name, version in machine["versions"].items()},
        "git_commit": commit["id"] + ("+changes" if commit.get("dirty") else "") if known else "",
    }


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item["extra_info"].items() if name not in FIGURES}


def _figures(item: Mapping[str, Any]) -> dict[str, float]:
    """Every number that came out; pytest-benchmark has some texts and lists among them."""
    everything = {**item["stats"], **{name: item["extra_info"].get(name) for name in FIGURES}}
    return {name: float(value) for name, value in everything.items() if isinstance(value, (int, float))}
